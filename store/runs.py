"""Stored runs for a notebook: a list of them, their tables as DataFrames, and SQL that can only read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pandas as pd

from store import layout, schema
from store.errors import NotFoundError, StoreError
from store.reader import Parameters, Store, open_store

_LISTED = ("run_id", "model", "method", "estimator", "control", "status", "datasets", "started_at")


class Runs:
    """What a data folder holds as it was last published; made by :func:`open_runs`.

    Tables and columns are those of ``docs/tables.md``. Nothing that is done here changes the folder.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def runs(self) -> pd.DataFrame:
        """Return a row per run, the latest first."""
        return self.store.query("SELECT * EXCLUDE (manifest) FROM runs ORDER BY started_at DESC, run_id")

    def run(self, run_id: str) -> Run:
        """Return one run; :class:`NotFoundError` when there is none of that id."""
        found = self.runs()
        row = found[found["run_id"] == run_id]
        if row.empty:
            raise NotFoundError(f"there is no run {run_id[:120]!r}; runs() lists those there are")
        return Run(self, run_id, row[list(_LISTED)].iloc[0])

    def frame(self, run: str | Sequence[str], table: str) -> pd.DataFrame:
        """Return the rows of a table that belong to a run, or to several; facts are read from their shards."""
        layout.check_table(table)
        wanted = [run] if isinstance(run, str) else list(run)
        known = set(self.runs()["run_id"])
        for one in wanted:
            if one not in known:
                raise NotFoundError(f"there is no run {one[:120]!r}; runs() lists those there are")
        described = schema.TABLES[table]
        if "run_id" not in described.column_names:
            raise NotFoundError(f"table {table} has no rows of single runs; read it with sql()")
        source = self.store.facts(table, wanted) if described.kind == "fact" else f'"{table}"'
        return self.store.query(
            f"SELECT * FROM {source} WHERE list_contains($runs::VARCHAR[], run_id)",  # noqa: S608  names of the schema
            {"runs": wanted},
        )

    def sql(self, query: str, parameters: Parameters | None = None) -> pd.DataFrame:
        """Return the rows of one SELECT over all tables; values go in as bound parameters (``?`` or ``$name``)."""
        try:
            statements = duckdb.extract_statements(query)
        except duckdb.Error as error:
            raise StoreError(f"the query failed: {str(error).splitlines()[0]}") from None
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise StoreError("sql() takes one SELECT: stored runs are only read here")
        return self.store.query(query, parameters)

    def __repr__(self) -> str:
        return f"Runs({str(self.store.home)!r}, {len(self.runs())} runs)"

    def _repr_html_(self) -> str:
        return self.runs()[list(_LISTED)].to_html(max_rows=20, index=False, escape=True)


class Run:
    """One stored run: what it is, and its tables."""

    def __init__(self, runs: Runs, run_id: str, facts: pd.Series) -> None:
        self.run_id = run_id
        self.facts = facts
        self._runs = runs

    def frame(self, table: str) -> pd.DataFrame:
        """Return the run's rows of a table."""
        return self._runs.frame(self.run_id, table)

    def __repr__(self) -> str:
        return f"Run({self.run_id!r})"

    def _repr_html_(self) -> str:
        return self.facts.to_frame("").to_html(escape=True)


def open_runs(home: str | Path = "vmoer-data") -> Runs:
    """Return the stored runs of a data folder, read-only; later publishing does not change what they show."""
    return Runs(open_store(Path(home).expanduser()))
