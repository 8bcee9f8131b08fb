"""``vmoer train``: everything that a spec trains, without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines import console
from pipelines.errors import SpecError
from pipelines.preparation.setup import prepare_experiment
from pipelines.preparation.train import DTYPES, Log, ensure_adapter, ensure_map_routers, methods_trained, train_method
from pipelines.session.inputs import Inputs
from pipelines.session.session import Session
from pipelines.settings import Settings
from pipelines.spec.model import Spec


def train_all(
    spec: Spec, folders: Sequence[str], settings: Settings, output: Path, dtype: str, quiet: bool = False
) -> list[dict[str, Any]]:
    """Train everything a spec trains into ``output/adapter``, ``output/map``, ``output/<method>``; one row each."""
    session = Session(Inputs(spec, folders, settings, output))
    rows = []
    for name, work in _parts(session, dtype):
        with console.JobProgress(quiet) as bars:

            def progress(done: int, total: int, message: str, name: str = name, bars: Any = bars) -> None:
                counts = {"done": done, "total": total, "stage_done": done, "stage_total": total}
                bars(name, {"stage": "train", "message": f"{name}, {message}", **counts})

            session.report = progress
            log = work()
        validation = [value for _, _, quantity, value in log if quantity == "validation_nll"]
        rows.append(
            {
                "part": name,
                "validation_nll_before": validation[0],
                "validation_nll_best": min(validation),
                "steps": max(step for step, *_ in log),
                "output": str(output / name),
            }
        )
    return rows


def _parts(session: Session, dtype: str) -> list[tuple[str, Callable[[], Log]]]:
    """Return what a spec trains, in order."""
    spec = session.spec
    parts: list[tuple[str, Callable[[], Log]]] = []
    if spec.adapter is not None and spec.adapter.train is not None:
        parts.append(("adapter", lambda: ensure_adapter(session)))
    if spec.map_routers is not None and spec.map_routers.train is not None:
        parts.append(("map", lambda: ensure_map_routers(session, DTYPES[dtype])))
    for method, control, folder in methods_trained(session.inputs):

        def work(method: str = method, control: str = control) -> Log:
            if session.layers is None:  # measured on the base, which is there by now
                prepare_experiment(session)
            return train_method(session, method, control, dtype)

        parts.append((folder.name, work))
    if not parts:
        raise SpecError("nothing to train: give {train: {data: …, validation: …}} to adapter, map_routers or routers")
    return parts
