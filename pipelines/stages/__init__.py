"""One module per stage of a run: each batch is an idempotent step that writes one shard per table.

A stage module has

* ``TABLES``: the tables that every batch writes,
* ``applies(run)``: whether a run has this stage,
* ``plan(context, run) -> list[Batch]``: its batches, the same whenever it is asked,
* ``compute(context, run, batch) -> {table: columns}``: pure; the engine writes,
* ``summarise(context, run) -> {table: columns}``: result tables computed from the run's own shards.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pipelines.context import Context
    from pipelines.runs import RunPlan

Columns = Mapping[str, Any]

#: name → module, in the order a run does them; specs list all but ``train``, which follows from `routers`
MODULES = {
    "train": "pipelines.stages.train",
    "trace": "pipelines.stages.trace",
    "susceptibility": "pipelines.stages.susceptibility",
    "leverage": "pipelines.stages.leverage",
    "evaluate": "pipelines.stages.evaluate",
    "ood": "pipelines.stages.ood",
    "efficiency": "pipelines.stages.efficiency",
}

#: stages computed from the shards of the others, which must be there before
AFTER_OTHERS = ("ood",)


@dataclass(frozen=True)
class Batch:
    """One step: ``key`` names its shards within the run, ``units`` is its share of the progress bar."""

    key: str
    units: int
    payload: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the record of the plan step."""
        return asdict(self)


class Stage(Protocol):
    """What a stage module provides (see the package's docstring)."""

    TABLES: tuple[str, ...]

    def applies(self, run: RunPlan) -> bool: ...
    def plan(self, context: Context, run: RunPlan) -> list[Batch]: ...
    def compute(self, context: Context, run: RunPlan, batch: Batch) -> Mapping[str, Columns]: ...
    def summarise(self, context: Context, run: RunPlan) -> Mapping[str, Columns]: ...


def stage(name: str) -> Stage:
    """The module of a stage."""
    return importlib.import_module(MODULES[name])
