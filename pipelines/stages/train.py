"""Training before a run is evaluated: a checkpoint in the data folder and the table ``training_log``.

Runs share what they stand on: the first that needs a part trains it, the others find it. The adapter's log is a row of
the run that answers with it and pretrained routers; the MAP routers' of the run that answers with those.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.bases import adapter_folder, map_folder
from pipelines.context import Context
from pipelines.routing import router_folder
from pipelines.runs import RunPlan
from pipelines.stages import Batch, Columns
from pipelines.train import Log, ensure_adapter, ensure_map_routers, train_method
from vmoer.routers.base import routers

TABLES = ("training_log",)


def applies(run: RunPlan) -> bool:
    return run.deterministic or (run.control in ("none", "beta-zero") and routers.get(run.method).trainable)


def plan(context: Context, run: RunPlan) -> list[Batch]:
    return [Batch("all", 1)] if _part(context, run) is not None else []


def _part(context: Context, run: RunPlan) -> str | None:
    """What a run's log is about: ``adapter``, ``map``, ``routers``, or nothing that this spec trains."""
    spec = context.spec
    if not run.deterministic:
        return "routers" if spec.routers.train is not None else None
    base = run.base(spec)
    if base == "map":
        return "map" if spec.map_routers is not None and spec.map_routers.train is not None else None
    trains = base == "pretrained" and spec.adapter is not None and spec.adapter.train is not None
    return "adapter" if trains else None


def compute(context: Context, run: RunPlan, batch: Batch) -> Mapping[str, Columns]:
    steps, layers, quantities, values = zip(*_train(context, run), strict=True)
    return {"training_log": {"step": steps, "layer": layers, "quantity": quantities, "value": values}}


def _train(context: Context, run: RunPlan) -> Log:
    resident, part = context.resident, _part(context, run)
    if part == "routers":
        folder = router_folder(context, run.method, run.control)
        assert folder is not None
        return train_method(context, resident, run.method, folder, context.report, control=run.control)
    folder = adapter_folder(context) if part == "adapter" else map_folder(context)
    assert folder is not None
    return (ensure_adapter if part == "adapter" else ensure_map_routers)(context, resident, folder)


def summarise(context: Context, run: RunPlan) -> Mapping[str, Columns]:
    return {}
