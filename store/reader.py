# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Reading a published generation: never locked, never writing, any number of threads."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pandas as pd

from store import engine, layout, schema, summaries
from store.errors import CorruptStoreError, MissingStoreError, StoreError
from store.publish import current_number

Parameters = Sequence[Any] | Mapping[str, Any]

_FACTS = tuple(table.name for table in schema.tables("fact"))
_FACT_NAME = re.compile(rf"\b({'|'.join(_FACTS)})\b")
_LITERAL = re.compile(r"'((?:[^']|'')*)'")


class Store:
    """One published generation, read-only. Tables carry the schema's names; safe to share between threads."""

    def __init__(self, home: Path, generation: int, connection: duckdb.DuckDBPyConnection) -> None:
        self.home = home
        self.generation = generation
        self._connection: duckdb.DuckDBPyConnection | None = connection
        self._lock = threading.Lock()
        self._views: set[str] = set()

    def query(self, sql: str, parameters: Parameters | None = None) -> pd.DataFrame:
        """The rows of ``sql`` as a DataFrame; values go in as bound parameters (``?`` or ``$name``), never as text."""
        cursor = self.cursor()
        try:
            self._prepare_views(cursor, sql)
            return cursor.execute(sql, parameters).df()
        except duckdb.Error as error:
            raise self.explain(sql, error) from error
        finally:
            cursor.close()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A cursor of its own for a caller that streams; the caller closes it."""
        connection = self._connection
        if connection is None:
            raise StoreError("this store has been closed: open it again")
        try:
            return connection.cursor()
        except duckdb.Error as error:
            raise self.explain("", error) from error

    def shards(self, table: str, run_ids: str | Sequence[str] | None = None) -> dict[Path, str | None]:
        """The shards of a fact or result table in this generation, of all runs or of the given ones, in reading order.

        Each with the SHA-256 it was sealed with, or None when its run was not sealed.
        """
        layout.check_table(table, "fact", "result")
        wanted = [run_ids] if isinstance(run_ids, str) else run_ids
        cursor = self.cursor()
        try:
            rows = cursor.execute(
                "SELECT path, sha256 FROM generation.store_shards WHERE table_name = $table "
                "AND ($runs IS NULL OR list_contains($runs::VARCHAR[], run_id)) ORDER BY run_id, path",
                {"table": table, "runs": None if wanted is None else list(wanted)},
            ).fetchall()
        except duckdb.Error as error:
            raise self.explain("", error) from error
        finally:
            cursor.close()
        return {self.home / path: sha256 for path, sha256 in rows}

    def facts(self, table: str, run_ids: str | Sequence[str] | None = None) -> str:
        """SQL for the rows of a fact table, to stand after FROM; naming the runs reads only their shards."""
        return engine.rows(schema.TABLES[table], list(self.shards(table, run_ids)))

    def problems(self) -> pd.DataFrame:
        """What could not be read when this generation was published: columns run_id, table_name, sentence."""
        return self.query("SELECT * FROM generation.store_problems ORDER BY ALL")

    def close(self) -> None:
        """Release the generation's file, once the queries that are running have ended.

        The connection is let go of, not closed: DuckDB refuses to close one whose cursors are busy in other threads.
        """
        self._connection = None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare_views(self, cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
        """Create the views over facts that ``sql`` names. Creating one opens every shard, so none is made unasked."""
        for name in _facts_named(sql) - self._views:
            with self._lock:
                if name not in self._views:
                    source = self.facts(name)
                    cursor.execute(f'CREATE OR REPLACE VIEW "{name}" AS SELECT * FROM {source}')
                    self._views.add(name)

    def explain(self, sql: str, error: duckdb.Error) -> StoreError:
        """The error to show for a failed query: it names the shard when one of those involved is at fault."""
        reason = engine.first_line(error)
        if isinstance(error, duckdb.ParserException | duckdb.CatalogException | duckdb.ConversionException):
            return StoreError(f"the query failed: {reason}")
        texts = [text.replace("''", "'") for text in _LITERAL.findall(sql)]
        involved = [Path(text) for text in texts if text.endswith(".parquet")]
        for name in sorted(_facts_named(sql)):
            involved += self.shards(name)
        found = summaries.find_damaged(involved, pages=not isinstance(error, duckdb.BinderException))
        if found is not None:
            return found
        if isinstance(error, duckdb.IOException | duckdb.FatalException | duckdb.SerializationException):
            return CorruptStoreError(engine.damaged_generation(f"vmoer-{self.generation}.duckdb", error))
        return StoreError(f"the query failed: {reason}")


def _facts_named(sql: str) -> set[str]:
    """The fact tables that ``sql`` names; a path inside a literal is not a name."""
    return set(_FACT_NAME.findall(_LITERAL.sub("''", sql)))


def open_store(home: layout.Home, memory_limit: str = engine.MEMORY_LIMIT, threads: int = engine.THREADS) -> Store:
    """The current generation of the data folder ``home``, read-only; later publishing does not change what it shows."""
    folder = Path(home).resolve()
    tried: int | None = None
    while True:
        number = current_number(folder) if folder.is_dir() else None
        if number is None:
            raise MissingStoreError(f"there are no results yet in {home}: run `vmoer demo`")
        try:
            return Store(folder, number, connect_generation(folder, number, memory_limit, threads))
        except MissingStoreError as error:
            # Published and pruned between the two reads; if CURRENT still names it, it is really gone.
            if number == tried:
                raise CorruptStoreError(
                    f"CURRENT names generation {number}, but its file is missing; "
                    "`vmoer verify --repair` builds it anew from the shards"
                ) from error
            tried = number


def connect_generation(
    folder: Path, number: int, memory_limit: str, threads: int, locked: bool = True
) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the generation attached; its views hold the folder's present path.

    ``locked`` keeps every query inside the folder of shards, whatever its text says; only an export needs it off.
    """
    connection = engine.connect(threads=threads, memory_limit=memory_limit)
    try:
        version = engine.attach_generation(connection, layout.generation_path(folder, number))
        if version < schema.SCHEMA_VERSION:
            raise CorruptStoreError(engine.older_generation(f"vmoer-{number}.duckdb", version))
        for table in schema.tables("catalog", "result", "derived"):
            connection.execute(f'CREATE VIEW "{table.name}" AS SELECT * FROM generation."{table.name}"')
        if locked:
            facts = engine.literal(str(layout.facts_folder(folder)))
            connection.execute(f"SET allowed_directories = [{facts}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        raise CorruptStoreError(engine.damaged_generation(f"vmoer-{number}.duckdb", error)) from error
    except StoreError:
        connection.close()
        raise
    return connection
