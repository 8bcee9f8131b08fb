"""Turn names into paths of a data folder; the only place that does."""

from __future__ import annotations

import os
import re
from pathlib import Path

from store import schema
from store.errors import InvalidNameError, NotFoundError

_RUN_ID = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,119}")
_SHARD = re.compile(r"part-[0-9a-f]{16}\.parquet")
_GENERATION = re.compile(r"vmoer-([1-9][0-9]{0,17})\.duckdb")

Home = str | os.PathLike[str]


def check_run_id(run_id: str) -> str:
    """Return ``run_id``; raise ``InvalidNameError`` when it could not be a file name of the store."""
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise InvalidNameError(
            f"{run_id!r} is not a run id: use 1 to 120 of the characters a-z, 0-9, '.', '_' and '-', "
            "not beginning with '.'"
        )
    return run_id


def check_table(name: str, *kinds: schema.Kind) -> schema.Table:
    """Return the table called ``name``; raise ``NotFoundError`` naming those there are (of ``kinds``, if given)."""
    wanted = {table.name: table for table in schema.tables(*kinds)}
    if name not in wanted:
        raise NotFoundError(f"there is no table {name!r}; there are {', '.join(wanted)}")
    return wanted[name]


def contained(home: Home, path: Path) -> Path:
    """Return ``path``; raise ``InvalidNameError`` when it leads outside the data folder, links followed.

    The one check of its kind: whatever a name or id becomes a path with goes through it.
    """
    root = os.path.realpath(home)
    target = os.path.realpath(path)
    if os.path.commonpath([root, target]) != root:
        raise InvalidNameError(f"{path.name!r} leads out of the data folder {root}")
    return path


def facts_folder(home: Home) -> Path:
    """The folder that holds every shard."""
    return Path(home) / "facts"


def shard_folder(home: Home, table: str, run_id: str) -> Path:
    """The folder of one run's shards of one fact or result table."""
    name = check_table(table, "fact", "result").name
    return contained(home, facts_folder(home) / f"table={name}" / f"run_id={check_run_id(run_id)}")


def shard_path(home: Home, table: str, run_id: str, shard: str) -> Path:
    """The path of one shard; ``shard`` is its file name, ``part-<16 hex digits>.parquet``."""
    if not _SHARD.fullmatch(shard):
        raise InvalidNameError(f"{shard!r} is not the name of a shard: expected part-<16 hex digits>.parquet")
    return contained(home, shard_folder(home, table, run_id) / shard)


def is_shard_name(name: str) -> bool:
    """Whether ``name`` is the file name of a finished shard (temporary names are not)."""
    return _SHARD.fullmatch(name) is not None


def runs_folder(home: Home) -> Path:
    """The folder that holds one manifest per run."""
    return Path(home) / "runs"


def manifest_path(home: Home, run_id: str) -> Path:
    """The path of one run's manifest."""
    return contained(home, runs_folder(home) / f"{check_run_id(run_id)}.json")


def generations_folder(home: Home) -> Path:
    """The folder that holds the published DuckDB files."""
    return Path(home) / "generations"


def generation_path(home: Home, number: int) -> Path:
    """The path of one published generation."""
    return generations_folder(home) / f"vmoer-{number}.duckdb"


def generation_number(name: str) -> int | None:
    """The number in a generation's file name, or None when ``name`` is not one."""
    match = _GENERATION.fullmatch(name)
    return int(match.group(1)) if match else None


def current_path(home: Home) -> Path:
    """The one-line file that names the generation to read."""
    return Path(home) / "CURRENT"
