# ruff: noqa: S608 — table and file names of the harness's own making
"""What two data folders, or two folders of written files, differ in: rows lost and rows too many."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd

from store import schema
from store.reader import open_store

#: when something was done, and what embeds it; everything else must be equal to the last bit
TIMES = ("started_at", "ended_at", "manifest")


def homes(reference: Path, home: Path) -> tuple[int, int]:
    """``(lost, extra)`` rows over every table of the published generations, facts included."""
    lost = extra = 0
    with open_store(reference) as before, open_store(home) as after:
        for table in schema.tables():
            columns = ", ".join(f'"{name}"' for name in table.column_names if name not in TIMES)
            sql = f'SELECT {columns} FROM "{table.name}"'
            missing, added = frames(before.query(sql), after.query(sql))
            lost, extra = lost + missing, extra + added
    return lost, extra


def frames(left: pd.DataFrame, right: pd.DataFrame) -> tuple[int, int]:
    """``(rows only in left, rows only in right)``, each row counted as often as it occurs."""
    if left.equals(right):  # the usual case, in a tenth of the time
        return 0, 0
    with duckdb.connect() as connection:
        connection.register("l", left)
        connection.register("r", right)
        return _relations(connection, "l", "r")


def folders(reference: Path, folder: Path) -> tuple[int, int]:
    """``(lost, extra)`` over the files of two folders: rows of tables, else one for a file that differs."""
    lost = extra = 0
    names = {path.relative_to(root).as_posix() for root in (reference, folder) for path in root.rglob("*")}
    for name in sorted(names):
        before, after = reference / name, folder / name
        if before.is_dir() and after.is_dir():
            continue
        if not after.exists():
            lost += 1
        elif not before.exists():
            extra += 1
        else:
            missing, added = _files(before, after)
            lost, extra = lost + missing, extra + added
    return lost, extra


def _files(before: Path, after: Path) -> tuple[int, int]:
    readers = {".parquet": "read_parquet", ".csv": "read_csv"}
    if before.suffix not in readers and before.suffix != ".duckdb":
        differs = int(before.read_bytes() != after.read_bytes())
        return differs, differs
    with duckdb.connect() as connection:
        if before.suffix in readers:
            sides = [f"{readers[before.suffix]}('{path}')" for path in (before, after)]
            return _relations(connection, *sides)
        lost = extra = 0
        connection.execute(f"ATTACH '{before}' AS l (READ_ONLY)")
        connection.execute(f"ATTACH '{after}' AS r (READ_ONLY)")
        for (table,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'l'"
        ).fetchall():
            missing, added = _relations(connection, f'l."{table}"', f'r."{table}"')
            lost, extra = lost + missing, extra + added
        return lost, extra


def _relations(connection: duckdb.DuckDBPyConnection, left: str, right: str) -> tuple[int, int]:
    def only(first: str, second: str) -> int:
        sql = f"SELECT count(*) FROM (SELECT * FROM {first} EXCEPT ALL SELECT * FROM {second})"
        return int(connection.execute(sql).fetchall()[0][0])

    return only(left, right), only(right, left)
