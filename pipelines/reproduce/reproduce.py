"""``vmoer reproduce``: estimate, compute every spec of a suite as a job, write the document, and archive the runs."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from pipelines import console
from pipelines.errors import JobError, SpecError
from pipelines.experiment.manifests import commit
from pipelines.reproduce.coverage import coverage_section
from pipelines.reproduce.estimate import estimate
from pipelines.reproduce.report import latex, markdown, pages, sections
from pipelines.reproduce.results import Results
from pipelines.reproduce.suite import Suite, load_suite, plan, present_sets
from pipelines.session.inputs import Inputs
from pipelines.session.session import Session
from pipelines.settings import Settings
from pipelines.spec.model import parse_spec
from pipelines.spec.runs import model_slug
from pipelines.worker.foreground import compute
from store.archive import write_archive
from store.files import write_text
from store.reader import open_store


def reproduce(
    name: str,
    form: str,
    model: str,
    settings: Settings,
    *,
    sets: list[str] | None,
    data: Path | None,
    questions: int | None,
    only: list[str],
    only_estimate: bool,
    quiet: bool,
) -> list[str]:
    """Run the suite and return the ids of its runs; finished specs are used, an interrupted one goes on."""
    suite = load_suite(name, settings)
    found, absent = present_sets(suite, sets, data)
    for sentence in absent:
        console.say(sentence)
    if not found:
        raise SpecError("no question set is left: give the folder that holds them with --data")
    folders = [str(data.absolute())] if data is not None else []
    smallest = parse_spec({"model": model, "data": {"id": {"name": "worldfacts", "split": "test"}}})
    probe = Session(Inputs(smallest, folders, settings))
    planned, said = plan(suite, form, model, found, questions, len(probe.resident.moe_layers), only)
    for sentence in said:
        console.say(sentence)
    console.say(estimate(planned, folders, settings).sentence())
    if only_estimate:
        return []
    ids: list[str] = []
    for number, item in enumerate(planned, 1):
        console.say(f"{number} of {len(planned)}: {item.experiment} on {item.questions}")
        job = compute(item.spec, folders, settings, quiet)
        if job.status != "finished":
            raise JobError(f"job {job.job_id} failed: it is {job.status}; repeat the command to go on")
        ids += job.run_ids
    return ids


def title(suite: Suite, form: str, model: str) -> str:
    """The heading of the document of a suite."""
    return f"Claims of the {suite.suite} on {model_slug(model)}, {form} form"


def document(name: str, form: str, model: str, settings: Settings) -> dict[str, str]:
    """Return the texts of a suite's document by file name: the document, a page per long table, and LaTeX."""
    suite = load_suite(name, settings)
    stem = f"{name}-{model_slug(model)}-{form}"
    heading = title(suite, form, model)
    with open_store(settings.home) as store:
        results = Results(store, f"{name}-{form}", model_slug(model))
        said = [*sections(results), coverage_section(results, suite, form, model)]
        main = markdown(results, said, heading, stem)
    return {f"{stem}.md": main, **pages(said, heading, stem), f"{stem}.tex": latex(said)}


def write_document(name: str, form: str, model: str, settings: Settings, output: Path) -> list[Path]:
    """Write every text of a suite's document into ``output``."""
    texts = document(name, form, model, settings)
    output.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        write_text(output / file, text)
    return [output / file for file in texts]


def write_runs(run_ids: list[str], settings: Settings, output: Path, summaries: bool = False) -> Path:
    """Archive runs into ``output``, labelled with this checkout's commit and today's date.

    ``summaries`` leaves out the rows per question, and most training steps if there are too many, for large suites.
    """
    label = {"commit": (commit() or "unknown")[:12], "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    with tempfile.TemporaryDirectory() as scratch:
        return write_archive(settings.home, run_ids, output, Path(scratch), label, summaries)
