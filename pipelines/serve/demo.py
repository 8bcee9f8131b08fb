"""``vmoer demo``: both models evaluated, the small one before the dashboard opens, the other as a job one can watch."""

from __future__ import annotations

from typing import Any

from pipelines import console
from pipelines.errors import JobError
from pipelines.jobs import client as jobs
from pipelines.resources import ARCHIVES, SPECS
from pipelines.serve import processes as serve
from pipelines.serve.dashboard import base_path, check_address
from pipelines.settings import Settings
from pipelines.spec.model import Spec, load_spec
from pipelines.spec.runs import expand
from pipelines.worker.foreground import compute
from store import queries
from store.archive import read_archives
from store.reader import open_store

#: results computed before, shown from the first start and labelled so
FIRST, SECOND = "demo-worldfacts.yaml", "demo-smollm2.yaml"

_SHOWN = ("accuracy", "ece", "ece_ts", "nll", "auroc")


def run_demo(settings: Settings, *, serve_pages: bool, address: str, port: int, insecure: bool, as_json: bool) -> int:
    """Exit code of the demo; with ``serve_pages`` it ends with Ctrl-C, else when both models are evaluated."""
    if serve_pages:
        check_address(address, port, insecure, settings)
    read_archives(sorted(ARCHIVES.glob("*.zip")), settings.home)
    _compute(FIRST, settings, as_json)
    if not serve_pages:
        _compute(SECOND, settings, as_json)
        rows = summary(settings)
        console.print_rows(rows, as_json, "no results")
        return 0
    serve.end_on_sigterm()
    processes = []
    try:
        worker = serve.start_worker(settings, settings.device)
        processes += [worker] if worker is not None else []
        processes.append(serve.start_dashboard(settings, address, port))
        console.say(f"dashboard on http://{address}:{port}/{base_path(settings)} (Ctrl-C stops it)")
        job_id = jobs.submit(_spec(SECOND, settings), settings=settings)
        console.say(f"smollm2-moe is built and evaluated as job {job_id}; the Jobs page and `vmoer jobs list` show it")
        return serve.wait(processes, console.say)
    finally:
        serve.stop(processes)


def summary(settings: Settings) -> list[dict[str, Any]]:
    """One row per run of the demo on the in-distribution set, with the far-OoD AUROC of the answer entropy."""
    wanted = [run.run_id for name in (FIRST, SECOND) for run in expand(_spec(name, settings))]
    with open_store(settings.home) as store:
        values = queries.metrics(store, wanted)
        runs = queries.runs(store).set_index("run_id")
    rows = []
    for run_id in wanted:
        mine = values[values["run_id"] == run_id]
        row: dict[str, Any] = {key: str(runs.loc[run_id, key]) for key in ("model", "method", "estimator", "control")}
        for metric in _SHOWN:
            chosen = mine[mine["metric"] == metric]
            if metric == "auroc":
                chosen = chosen[(chosen["score"] == "answer_entropy") & (chosen["dataset"] == "far-ood")]
            else:
                chosen = chosen[chosen["dataset"] == "test"]
            row[metric] = round(float(chosen["value"].iloc[0]), 3) if len(chosen) else None
        rows.append({"run_id": run_id, **row})
    return rows


def _spec(name: str, settings: Settings) -> Spec:
    return load_spec(SPECS / name, settings)


def _compute(name: str, settings: Settings, quiet: bool) -> None:
    job = compute(_spec(name, settings), [], settings, quiet)
    if job.status != "finished":
        raise JobError(f"the demo's job {job.job_id} failed: it is {job.status}; start the demo again to go on")
