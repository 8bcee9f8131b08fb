# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Runs, models and data sets: what there is to look at."""

from __future__ import annotations

import pandas as pd

from store import layout
from store.queries._sql import RunIds, Store, chosen, equals, ids


def runs(store: Store) -> pd.DataFrame:
    """Every run, latest first: the columns of table ``runs``."""
    return store.query("SELECT * FROM runs ORDER BY started_at DESC, run_id")


def run(store: Store, run_id: str) -> pd.Series | None:
    """One run's row of table ``runs``, or None when there is no such run."""
    rows = store.query("SELECT * FROM runs WHERE run_id = $run_id", {"run_id": run_id})
    return None if rows.empty else rows.iloc[0]


def models(store: Store) -> pd.DataFrame:
    """Every model that a run used: the columns of table ``models``."""
    return store.query("SELECT * FROM models ORDER BY model")


def datasets(store: Store, experiment: str | None = None) -> pd.DataFrame:
    """The data sets of one experiment, or of all: the columns of table ``datasets``, in-distribution first."""
    return store.query(
        f"SELECT * FROM datasets WHERE {equals('experiment', 'experiment')} "
        "ORDER BY experiment, list_position(['in-distribution', 'near-ood', 'far-ood', 'validation'], role), dataset",
        {"experiment": experiment},
    )


def training_log(store: Store, run_id: str) -> pd.DataFrame:
    """What was logged while the run's routers were trained: step, layer (−1: whole model), quantity, value."""
    return store.query(
        "SELECT run_id, step, layer, quantity, value FROM training_log WHERE run_id = $run_id ORDER BY ALL",
        {"run_id": run_id},
    )


def runs_with(store: Store, table: str) -> pd.DataFrame:
    """The runs that have rows in a result table: column run_id, latest first."""
    name = layout.check_table(table, "result").name
    return store.query(
        f'SELECT run_id FROM runs WHERE run_id IN (SELECT run_id FROM "{name}") ORDER BY started_at DESC, run_id'
    )


def efficiency(store: Store, run_ids: RunIds = None) -> pd.DataFrame:
    """Costs beside the deterministic run: run_id, quantity, value, baseline, unit, ratio (value ÷ baseline)."""
    return store.query(
        "SELECT *, value / nullif(baseline, 0) AS ratio FROM efficiency "
        f"WHERE {chosen('run_id', 'runs')} ORDER BY run_id, quantity",
        {"runs": ids(run_ids)},
    )
