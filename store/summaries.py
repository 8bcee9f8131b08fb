# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""The rows of one run that a generation holds: results as written, and the derived summaries of its routing facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from store import engine, schema, shards, typed
from store.catalog import RunManifest
from store.errors import CorruptShardError, StoreError

# Sums over the routing rows of one run; DOUBLE sums are taken by one thread in shard order, so that they never vary.
_LAYER_STATS = """
SELECT run_id, dataset, layer,
    count(*)::UBIGINT AS n,
    max(len(expert_index))::USMALLINT AS top_k,
    sum(overlap)::UBIGINT AS sum_overlap,
    count(*) FILTER (overlap < len(expert_index))::UBIGINT AS n_changed,
    sum(overlap / (2.0 * len(expert_index) - overlap)) AS sum_jaccard,
    sum(top_k_margin::DOUBLE) AS sum_margin,
    sum(routing_entropy::DOUBLE) AS sum_entropy,
    sum(routing_entropy::DOUBLE * routing_entropy::DOUBLE) AS sum_entropy_sq,
    count(logit_variance)::UBIGINT AS n_variance,
    coalesce(sum(logit_variance::DOUBLE), 0) AS sum_variance,
    coalesce(sum(logit_variance::DOUBLE * logit_variance::DOUBLE), 0) AS sum_variance_sq
FROM {routing}
GROUP BY ALL
ORDER BY ALL
"""

_EXPERT_LOAD = """
WITH routing AS (SELECT run_id, dataset, layer, expert_index, gate_weight FROM {routing}),
totals AS (SELECT run_id, dataset, layer, count(*) AS n_tokens FROM routing GROUP BY ALL),
used AS (
    SELECT dataset, layer, expert, count(*) AS n_selected, sum(gate) AS gate_mass
    FROM (SELECT dataset, layer, unnest(expert_index) AS expert, unnest(gate_weight)::DOUBLE AS gate FROM routing)
    GROUP BY ALL
)
SELECT t.run_id, t.dataset, t.layer, e.expert::USMALLINT AS expert_index,
    coalesce(u.n_selected, 0)::UBIGINT AS n_selected,
    t.n_tokens::UBIGINT AS n_tokens,
    coalesce(u.gate_mass, 0)::DOUBLE AS gate_mass
FROM totals t CROSS JOIN (SELECT unnest(range($n_experts)) AS expert) e
LEFT JOIN used u ON u.dataset = t.dataset AND u.layer = t.layer AND u.expert = e.expert
ORDER BY ALL
"""

DERIVED: dict[str, str] = {"layer_stats": _LAYER_STATS, "expert_load": _EXPERT_LOAD}


def run_tables(
    connection: duckdb.DuckDBPyConnection,
    manifest: RunManifest,
    paths: dict[str, list[Path]],
    refused: Callable[[str, StoreError], None],
) -> dict[str, pa.Table]:
    """Return the run's ``result`` and ``derived`` tables, read from its shards.

    A table whose shards cannot be read is left out and handed to ``refused`` with the sentence that says why. What is
    damaged may make ``connection`` useless: give one of their own to shards whose hashes were not checked.
    """
    made: dict[str, pa.Table] = {}
    for table in schema.tables("result", "derived"):
        source = "routing" if table.kind == "derived" else table.name
        if not paths.get(source):
            continue
        try:
            for path in paths[source]:
                shards.check_info(path, source, manifest.run_id)
            if table.kind == "derived":
                n_experts = manifest.model.get("n_experts") or 0
                made[table.name] = derive(connection, table.name, paths["routing"], n_experts)
            else:
                made[table.name] = _read(connection, table, paths[source])
        except duckdb.Error as error:
            refused(table.name, find_damaged(paths[source]) or CorruptShardError(engine.first_line(error)))
        except StoreError as error:
            refused(table.name, error)
    return made


def derive(connection: duckdb.DuckDBPyConnection, name: str, routing: Sequence[Path], n_experts: int) -> pa.Table:
    """Compute the derived table ``name`` of one run from its routing shards."""
    sql = DERIVED[name].format(routing=engine.scan(routing))
    parameters = {"n_experts": int(n_experts)} if "$n_experts" in sql else {}
    return connection.sql(sql, params=parameters).to_arrow_table().cast(typed.arrow_schema(schema.TABLES[name]))


def _read(connection: duckdb.DuckDBPyConnection, table: schema.Table, paths: Sequence[Path]) -> pa.Table:
    columns = engine.names(table.column_names)
    rows = connection.sql(f"SELECT {columns} FROM {engine.scan(paths)}").to_arrow_table()
    return rows.cast(typed.arrow_schema(table))


def find_damaged(paths: Sequence[Path], pages: bool = True) -> StoreError | None:
    """Return the error for the first of ``paths`` that cannot be read, or None when all can."""
    for path in paths:
        try:
            shards.read_info(path)
            if pages:
                shards.check_pages(path)
        except StoreError as error:
            return error
    return None
