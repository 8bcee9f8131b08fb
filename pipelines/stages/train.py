"""Training before a run is evaluated: a checkpoint in the data folder and the table ``training_log``.

Runs share what they stand on: the first that needs a part trains it, the others find it. The adapter's log is a row of
the run that answers with it and pretrained routers; the MAP routers' of the run that answers with those.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.preparation.train import Log, ensure_adapter, ensure_map_routers, train_method
from pipelines.session.session import Session
from pipelines.spec.runs import RunPlan
from pipelines.stages import Batch, Columns
from vmoer.routers.base import routers

TABLES = ("training_log",)


def applies(run: RunPlan) -> bool:
    return run.deterministic or (run.control in ("none", "beta-zero") and routers.get(run.method).trainable)


def plan(session: Session, run: RunPlan) -> list[Batch]:
    return [Batch("all", 1)] if _part(session, run) is not None else []


def _part(session: Session, run: RunPlan) -> str | None:
    """What a run's log is about: ``adapter``, ``map``, ``routers``, or nothing that this spec trains."""
    spec = session.spec
    if not run.deterministic:
        return "routers" if spec.routers.train is not None else None
    base = run.base(spec)
    if base == "map":
        return "map" if spec.map_routers is not None and spec.map_routers.train is not None else None
    trains = base == "pretrained" and spec.adapter is not None and spec.adapter.train is not None
    return "adapter" if trains else None


def compute(session: Session, run: RunPlan, batch: Batch) -> Mapping[str, Columns]:
    steps, layers, quantities, values = zip(*_train(session, run), strict=True)
    return {"training_log": {"step": steps, "layer": layers, "quantity": quantities, "value": values}}


def _train(session: Session, run: RunPlan) -> Log:
    part = _part(session, run)
    if part == "routers":
        return train_method(session, run.method, run.control)
    return ensure_adapter(session) if part == "adapter" else ensure_map_routers(session)


def summarise(session: Session, run: RunPlan) -> Mapping[str, Columns]:
    return {}
