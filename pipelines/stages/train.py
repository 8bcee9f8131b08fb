"""Training the routers before they are evaluated: a checkpoint in the data folder and the table ``training_log``.

The runs of one method share their routers: the first trains them, the others find them.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.context import Context
from pipelines.routing import trained_folder
from pipelines.runs import RunPlan
from pipelines.stages import Batch, Columns
from pipelines.train import train_method
from vmoer.routers.base import routers

TABLES = ("training_log",)


def applies(run: RunPlan) -> bool:
    return run.control == "none" and not run.deterministic and routers.get(run.method).trainable


def plan(context: Context, run: RunPlan) -> list[Batch]:
    return [Batch("all", 1)]


def compute(context: Context, run: RunPlan, batch: Batch) -> Mapping[str, Columns]:
    folder = trained_folder(context, run.method)
    log = train_method(context, context.resident, run.method, folder, context.report)
    steps, layers, quantities, values = zip(*log, strict=True)
    return {"training_log": {"step": steps, "layer": layers, "quantity": quantities, "value": values}}


def summarise(context: Context, run: RunPlan) -> Mapping[str, Columns]:
    return {}
