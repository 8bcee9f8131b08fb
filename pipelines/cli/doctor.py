"""The command `vmoer doctor`: checks the installation, the data folder, the models and the jobs."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from transformers.utils import logging

from pipelines.cli.bundled import model_rows
from pipelines.cli.listing import run_rows
from pipelines.cli.root import Json
from pipelines.console import clean, print_json, print_rows
from pipelines.experiment.manifests import versions
from pipelines.jobs import client as jobs
from pipelines.jobs.locks import live_executors
from pipelines.settings import Settings, load_settings
from pipelines.worker.process import detect_device
from store.publish import current_number
from vmoer.measure import model_report as fitness


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A model to look at: a name, a folder, a config.json or a hub id.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check the installation, the data folder and the jobs; exit code 1 when something needs attention.

    With MODEL: what VMoER can do with it, from its configuration alone, whatever its size: family, layers, experts,
    routing rule, memory, and what each method adds to the operations per token (35 samples; in 10 layers, in all).
    Where its weights are there, names and shapes of the tensors are compared with it, without loading any.
    """
    if model is not None:
        found = model_report(model)
        if json_:
            print_json(found)
        else:
            print("\n".join(model_lines(found)))
        return
    rows = findings(load_settings())
    print_rows(rows, json_, "nothing to check")
    raise typer.Exit(0 if all(row["ok"] for row in rows) else 1)


def findings(settings: Settings) -> list[dict[str, Any]]:
    """One row per check: ``name``, ``ok`` and a sentence; a check that raises is a finding, not a crash."""
    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("python", lambda _: platform.python_version()),
        ("packages", lambda _: ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("device", _device),
        ("data folder", _folder),
        ("models", _models),
        ("results", _results),
        ("jobs", _jobs),
    ]
    rows = []
    for name, check in checks:
        try:
            rows.append({"name": name, "ok": True, "detail": check(settings)})
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            rows.append({"name": name, "ok": False, "detail": first})
    return rows


def model_report(source: str) -> dict[str, Any]:
    """Return what VMoER can do with a model, from its configuration and the names and shapes of its tensors."""
    logging.set_verbosity_error()  # remarks about kernels that are not needed to look at a configuration
    return fitness.report(source)


def model_lines(found: dict[str, Any]) -> list[str]:
    """A model's report for a terminal."""
    moe = f"{len(found['moe_layers'])} of {found['layers']} layers are MoE"
    lines = [
        f"{clean(found['model'])}: {found['family']}",
        f"  routing      {found['rule']}",
        f"  layers       {moe}, {found['experts']} experts, top-{found['top_k']}, hidden {found['hidden_size']}",
        f"  parameters   {found['parameters'] / 1e9:.2f} B, {found['active_parameters'] / 1e9:.2f} B active per token",
        f"  weights      {found['weights_gb']:.1f} GB ({found['dtype']}), {found['weights_float32_gb']:.1f} (float32)",
        f"  tensors      {found['weights']}",
        f"  operations   {found['macs_per_token'] / 1e9:.3f} G multiply-accumulates per token, attention scores apart",
        "",
        f"  {'method':<14}{'estimators':<38}{'parameters':>12}{'10 layers':>12}{'all layers':>12}",
    ]
    for row in found["methods"]:
        if not row["supported"]:
            lines.append(f"  {row['method']:<14}refused")
            continue
        costs = (row["router_parameters_per_layer"], row["extra_percent"], row["extra_percent_all_layers"])
        parameters, some, whole = costs
        shown = f"{parameters:>12,}{some:>+11.3f}%{whole:>+11.3f}%" if parameters is not None else f"{'no formula':>12}"
        lines.append(f"  {row['method']:<14}{', '.join(row['estimators']):<38}{shown}")
    refusals = sorted({row["refusal"] for row in found["methods"] if row["refusal"]})
    return lines + [f"  {sentence}" for sentence in refusals]


def _device(settings: Settings) -> str:
    return f"{detect_device(settings.device)}, {torch.get_num_threads()} threads"


def _folder(settings: Settings) -> str:
    settings.home.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=settings.home):
        pass
    free = shutil.disk_usage(settings.home).free / 1e9
    if free < 1:
        raise RuntimeError(f"{settings.home}: only {free:.1f} GB are free")
    return f"{settings.home}: writable, {free:.0f} GB free"


def _models(settings: Settings) -> str:
    return ", ".join(f"{row['model']} ({'present' if row['present'] else 'not built'})" for row in model_rows())


def _results(settings: Settings) -> str:
    rows = run_rows(settings.home)
    broken = [row["run_id"] for row in rows if row["status"] == "failed"]
    if broken:
        raise RuntimeError(f"{len(broken)} of {len(rows)} runs failed, the first is {broken[0]}")
    return f"{len(rows)} runs, generation {current_number(settings.home) or 'none'}"


def _jobs(settings: Settings) -> str:
    known = jobs.list_jobs(settings)
    lost = [job.job_id for job in known if job.lost]
    if lost:
        raise RuntimeError(f"job {lost[0]} is lost: start `vmoer worker`, or `vmoer jobs cancel {lost[0]}`")
    alive = live_executors(settings.home)
    return f"{len(known)} jobs, workers: {', '.join(alive) or 'none running'}"
