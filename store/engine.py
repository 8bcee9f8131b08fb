"""Connect to DuckDB, and build the few pieces of SQL that are made from names and paths."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import duckdb

from store import schema, shards
from store.errors import CorruptStoreError, MissingStoreError, NewerSchemaError

MEMORY_LIMIT = "2GB"
THREADS = 2


def connect(
    path: Path | str = ":memory:", threads: int = THREADS, memory_limit: str = MEMORY_LIMIT
) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection that loads no extension and spills to a temporary folder of its own."""
    spills = Path(tempfile.gettempdir())
    sweep(spills)
    # Two databases that share a spill folder overwrite each other's files.
    spill = spills / f"{_owner()}{os.getpid()}-{secrets.token_hex(6)}"
    connection = duckdb.connect(
        str(path),
        config={
            "threads": threads,
            "memory_limit": memory_limit,
            "temp_directory": str(spill),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        },
    )
    connection.execute("SET enable_progress_bar = false")  # standard output is for results
    return connection


@cache
def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine spilled into ``folder``; once per process.

    DuckDB removes its spill folder when a database is closed, which a killed process never does.
    """
    for left in folder.glob(f"{_owner()}*"):
        pid = left.name.removeprefix(_owner()).partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _owner() -> str:
    """Return the prefix of this machine's spill folders: containers may share a temporary folder, not processes."""
    return f"vmoer-duckdb-{re.sub('[^a-zA-Z0-9]', '_', platform.node())}-"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's, or no process number
        return True
    return True


def literal(text: str) -> str:
    """``text`` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def names(columns: Sequence[str]) -> str:
    """Column names of the schema as a quoted, comma-separated list."""
    return ", ".join(f'"{name}"' for name in columns)


def scan(paths: Sequence[Path | str], named: bool = False) -> str:
    """SQL that reads the given shards as one relation; the paths come from the store's own layout.

    ``named`` adds a column ``filename``.
    """
    listed = ", ".join(literal(str(path)) for path in paths)
    # The folder names carry table= and run_id=, which DuckDB would otherwise add as columns.
    return f"read_parquet([{listed}], hive_partitioning=false, union_by_name=true, filename={str(named).lower()})"


def empty(table: schema.Table) -> str:
    """SQL for a relation with the table's typed columns and no rows."""
    columns = ", ".join(f'NULL::{column.type} AS "{column.name}"' for column in table.columns)
    return f"(SELECT {columns} WHERE false)"


def rows(table: schema.Table, paths: Sequence[Path]) -> str:
    """SQL for the rows of ``table`` in the given shards, of which there may be none."""
    return scan(paths) if paths else empty(table)


def create(table: schema.Table) -> str:
    """The CREATE TABLE statement of ``table``."""
    columns = ", ".join(
        f'"{column.name}" {column.type}{"" if column.nullable else " NOT NULL"}' for column in table.columns
    )
    return f'CREATE TABLE "{table.name}" ({columns})'


def first_line(error: Exception) -> str:
    """The first line of an error's text; DuckDB adds the query below it."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def attach_generation(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """The schema version of the generation at ``path``, attached read-only as ``generation``.

    Raises ``MissingStoreError`` when the file is gone, ``CorruptStoreError`` when it is no readable generation and
    ``NewerSchemaError`` when a newer version wrote it.
    """
    try:
        if not path.exists():
            raise FileNotFoundError
        connection.execute(f"ATTACH {literal(str(path))} AS generation (READ_ONLY)")
        found = connection.execute("SELECT schema_version FROM generation.store_meta").fetchall()
    except (duckdb.Error, OSError) as error:
        if not path.exists():
            raise MissingStoreError(f"generation {path.name} is missing") from error
        raise CorruptStoreError(damaged_generation(path.name, error)) from error
    if not found:
        raise CorruptStoreError(damaged_generation(path.name, ValueError("it names no schema version")))
    version = int(found[0][0])
    if version > schema.SCHEMA_VERSION:
        raise NewerSchemaError(shards.newer(f"generation {path.name}", version))
    return version


def older_generation(name: str, version: int) -> str:
    """Return the error for a generation that an earlier version published."""
    return (
        f"generation {name} was published with schema version {version}, this VMoER reads {schema.SCHEMA_VERSION}; "
        "`vmoer verify --repair` builds it anew from the shards"
    )


def damaged_generation(name: str, error: Exception) -> str:
    """Return the error for a generation file that cannot be read."""
    return f"generation {name} is damaged ({first_line(error)}); `vmoer verify --repair` builds it anew from the shards"
