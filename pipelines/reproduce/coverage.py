"""How much of what a form declares is behind a document: what was not run is said, not left out."""

from __future__ import annotations

from pipelines.reproduce.cells import Section
from pipelines.reproduce.results import Results
from pipelines.reproduce.suite import Suite, plan
from pipelines.spec.runs import expand


def coverage_section(results: Results, suite: Suite, form: str, model: str) -> Section:
    """Declared experiments with fewer finished runs than the form has, over the question sets that were run."""
    sets = [name for name in suite.sets if (results.runs["questions"] == name).any()]
    planned, _ = plan(suite, form, model, sets)
    rows: dict[str, list[str]] = {}
    finished = declared = 0
    for item in planned:
        wanted = {(run.method, run.estimator, run.control) for run in expand(item.spec)}
        there = results.of(item.experiment, item.questions)
        found = wanted & set(zip(there["method"], there["estimator"], there["control"], strict=True))
        finished, declared = finished + len(found), declared + len(wanted)
        if found != wanted:
            count = f"{item.questions} {len(found)} of {len(wanted)}" if found else f"{item.questions} none"
            rows.setdefault(item.experiment, []).append(count)
    absent = [name for name in suite.sets if name not in sets]
    text = f"Of the {declared} runs that the form declares for {', '.join(sets) or 'no set'}, {finished} are here."
    if absent:
        text += f" Not run at all on {', '.join(absent)}."
    return Section(
        "What was not run",
        text,
        ("experiment", "finished runs") if rows else (),
        [[experiment, ", ".join(counts)] for experiment, counts in rows.items()],
    )
