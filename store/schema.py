"""Every table of the store, as data: DDL, Arrow schemas, docs and tests come from here.

Three kinds of table:

* ``fact``: immutable Parquet shards below ``facts/table=<name>/run_id=<id>/``; a generation holds a *view* over them.
* ``result``: small per-run tables, also written as shards, *copied* into each generation.
* ``derived``: additive summaries that the publisher computes from facts (they merge across shards by SUM).
* ``catalog``: one row per run, model or data set, read from the run manifests in ``runs/<id>.json``.

Conventions: fractions, never percent; nats; ``layer`` is the absolute 0-based block index; ``position`` is the token's
index without padding; NULL means *not applicable*; NaN is refused by the writer.
"""

from __future__ import annotations

from collections.abc import Iterator

from store.tables.catalog import CATALOG
from store.tables.derived import DERIVED
from store.tables.facts import FACTS
from store.tables.results import RESULTS
from store.tables.table import Column, Kind, Table

__all__ = ["SCHEMA_VERSION", "TABLES", "Column", "Kind", "Table", "table", "tables"]

SCHEMA_VERSION = 1

TABLES: dict[str, Table] = {table.name: table for table in (*CATALOG, *FACTS, *RESULTS, *DERIVED)}


def tables(*kinds: Kind) -> Iterator[Table]:
    """The tables of the given kinds (all when none is given), in dependency order."""
    for table in TABLES.values():
        if not kinds or table.kind in kinds:
            yield table


def table(name: str) -> Table:
    """The table called ``name``; raises ``KeyError`` naming the tables there are."""
    try:
        return TABLES[name]
    except KeyError:
        raise KeyError(f"no table {name!r}; there are {', '.join(TABLES)}") from None
