"""What ``vmoer doctor`` checks: the installation, the data folder, the models, the jobs and the browser for tests."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from pipelines import jobs
from pipelines.locks import live_executors
from pipelines.manifests import versions
from pipelines.settings import Settings


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


def _device(settings: Settings) -> str:
    import torch

    from pipelines.worker import detect_device

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
    from pipelines.bundled import model_rows

    return ", ".join(f"{row['model']} ({'present' if row['present'] else 'not built'})" for row in model_rows())


def _results(settings: Settings) -> str:
    from pipelines.catalog import run_rows
    from store.publish import current_number

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
