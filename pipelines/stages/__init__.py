"""One module per stage of a run: each batch is an idempotent step that writes one shard per table.

A stage module has

* ``TABLES``: the tables that every batch writes; or a function ``tables(spec)`` where the spec decides,
* ``applies(run)``: whether a run has this stage,
* ``plan(session, run) -> list[Batch]``: its batches, the same whenever it is asked,
* ``compute(session, run, batch) -> {table: columns}``: pure; the engine writes,
* ``summarise(session, run) -> {table: columns}``: result tables computed from the run's own shards.

Which stages there are stands in the table of stages (:mod:`pipelines.spec.stage_table`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pipelines.session.session import Session
from pipelines.spec.model import Spec
from pipelines.spec.runs import RunPlan
from pipelines.spec.stage_table import BY_NAME

Columns = Mapping[str, Any]


@dataclass(frozen=True)
class Batch:
    """One step: ``key`` names its shards within the run, ``units`` is its share of the progress bar."""

    key: str
    units: int
    payload: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, for the record of the plan step."""
        return asdict(self)


class Stage(Protocol):
    """What a stage module provides (see the package's docstring)."""

    TABLES: tuple[str, ...]

    def applies(self, run: RunPlan) -> bool: ...
    def plan(self, session: Session, run: RunPlan) -> list[Batch]: ...
    def compute(self, session: Session, run: RunPlan, batch: Batch) -> Mapping[str, Columns]: ...
    def summarise(self, session: Session, run: RunPlan) -> Mapping[str, Columns]: ...


def stage(name: str) -> Stage:
    """Return the module of a stage."""
    return importlib.import_module(BY_NAME[name].module)


def tables_of(name: str, spec: Spec) -> tuple[str, ...]:
    """Return the tables that every batch of a stage writes in an experiment."""
    module = stage(name)
    decide: Callable[[Spec], tuple[str, ...]] | None = getattr(module, "tables", None)
    return module.TABLES if decide is None else decide(spec)


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as columns; ``{}`` for none."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
