"""Immutable Parquet shards: typed against the schema, equal bytes for equal rows, visible only when complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from store import files, layout, typed
from store.errors import CorruptShardError, InvalidNameError, NewerSchemaError
from store.schema import SCHEMA_VERSION, Column, Table

ROW_GROUP = 122_880  # DuckDB scans row groups in parallel; this is the size of its own


@dataclass(frozen=True)
class ShardInfo:
    """What a shard says about itself: rows and the run, table and name it was written for.

    ``steps`` are the keys whose rows it holds, one, or several after compacting; empty when it does not say.
    """

    rows: int
    schema_version: int
    table: str
    run_id: str
    name: str
    steps: tuple[str, ...] = ()


def shard_name(key: str) -> str:
    """Return the file name of the shard with ``key``: the same key always gives the same name."""
    if not isinstance(key, str) or not key:
        raise InvalidNameError(f"{key!r} is not the name of a shard: use a non-empty text that tells its rows apart")
    return f"part-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.parquet"


def write_shard(
    home: layout.Home,
    table: str,
    run_id: str,
    name: str,
    data: pa.Table | Mapping[str, Any],
    steps: Sequence[str] | None = None,
    packed: bool = True,
) -> Path:
    """Write ``data`` as a shard and return its path; an older shard of the same ``name`` is replaced.

    ``data`` maps column names to arrays (2-D ``[rows, k]`` for list columns), sequences, or one scalar for a
    constant column; ``run_id`` may be left out. NaN, infinities, unknown, missing and wrong-typed columns are
    refused by name. ``steps`` are the names under which the rows were written before, when that was not ``name``.
    ``packed=False`` leaves compressing to the archive the shard goes into, which does it better with small shards.
    """
    spec = layout.check_table(table, "fact", "result")
    path = layout.shard_path(home, table, run_id, shard_name(name))
    rows = typed.arrow_table(spec, data, run_id)
    with files.replacing(path) as temporary:
        metadata = _metadata(table, run_id, path.name, _own_step(name) if steps is None else steps)
        _write(temporary, spec, rows, metadata, packed)
    return path


def _own_step(name: str) -> list[str]:
    """The step of a shard that was not merged; none when no JSON file could hold its name."""
    return [name] if name.encode("utf-8", "replace").decode() == name else []


def _metadata(table: str, run_id: str, name: str, steps: Sequence[str] = ()) -> dict[str, str]:
    return {
        "vmoer.schema_version": str(SCHEMA_VERSION),
        "vmoer.table": table,
        "vmoer.run_id": run_id,
        "vmoer.shard": name,
        "vmoer.steps": json.dumps(list(steps)),
    }


def _write(path: Path, spec: Table, rows: pa.Table, metadata: dict[str, str], packed: bool = True) -> None:
    floats = [leaf for column in spec.columns if (leaf := _leaf(column, "FLOAT", "DOUBLE"))]
    # No Arrow schema, no time stamp: the bytes depend on the rows alone. Page checksums show a flipped bit.
    with pq.ParquetWriter(
        path,
        rows.schema,
        compression="zstd" if packed else "none",
        version="2.6",
        store_schema=False,
        write_page_checksum=True,
        use_dictionary=[leaf for column in spec.columns if packed and (leaf := _leaf(column)) and leaf not in floats],
        column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT") if packed else None,
    ) as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata(metadata)


def _leaf(column: Column, *types: str) -> str | None:
    """The Parquet path of the column's values when they are of one of ``types`` (of any, when none is given)."""
    base = column.type.removesuffix("[]")
    if types and base not in types:
        return None
    return column.name if base == column.type else f"{column.name}.list.element"


def list_shards(home: layout.Home, table: str, run_id: str) -> list[Path]:
    """The finished shards of one run's table, sorted by name."""
    folder = layout.shard_folder(home, table, run_id)
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if layout.is_shard_name(path.name))


def read_info(path: Path) -> ShardInfo:
    """Return what the footer of a shard says; raise ``CorruptShardError`` when it cannot be read."""
    try:
        footer = pq.read_metadata(path)
        raw = {key.decode(): value.decode() for key, value in (footer.metadata or {}).items()}
        info = ShardInfo(
            footer.num_rows,
            int(raw["vmoer.schema_version"]),
            raw["vmoer.table"],
            raw["vmoer.run_id"],
            raw["vmoer.shard"],
            tuple(map(str, json.loads(raw.get("vmoer.steps", "[]")))),
        )
    except FileNotFoundError:
        raise CorruptShardError(f"shard {display(path)} is missing") from None
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, RecursionError) as error:
        raise CorruptShardError(f"shard {display(path)} is damaged: {_reason(error)}") from error
    if info.schema_version > SCHEMA_VERSION:
        raise NewerSchemaError(newer(f"shard {display(path)}", info.schema_version))
    return info


def check_info(path: Path, table: str, run_id: str) -> ShardInfo:
    """The shard's footer; raises ``CorruptShardError`` when the file was written for another run, table or name."""
    info = read_info(path)
    if (info.table, info.run_id, info.name) != (table, run_id, path.name):
        raise CorruptShardError(
            f"shard {display(path)} is not the one that belongs there: it was written as "
            f"{info.name} of table {info.table}, run {info.run_id}"
        )
    return info


def entry(path: Path, table: str, run_id: str) -> dict[str, Any]:
    """A shard as the manifest of a sealed run lists it: name, SHA-256, rows and, where it says so, steps."""
    info = check_info(path, table, run_id)
    said = {"steps": list(info.steps)} if info.steps else {}
    return {"name": path.name, "sha256": files.sha256(path), "rows": info.rows, **said}


def merged_shards(home: layout.Home, table: str, run_id: str) -> dict[str, Path]:
    """Name of a shard that compacting replaced → the shard that holds its rows now, for all that can be read."""
    found: dict[str, Path] = {}
    for path in list_shards(home, table, run_id):
        with suppress(CorruptShardError):
            steps = check_info(path, table, run_id).steps
            found |= dict.fromkeys(map(shard_name, steps), path) if len(steps) > 1 else {}
    return found


def check_pages(path: Path) -> None:
    """Read every page and its checksum; raises ``CorruptShardError`` when a bit has changed since it was written."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as shard:
            for group in range(shard.num_row_groups):
                shard.read_row_group(group)
    except FileNotFoundError:
        raise CorruptShardError(f"shard {display(path)} is missing") from None
    except (OSError, pa.ArrowException, ValueError) as error:  # a column's name may be no text
        raise CorruptShardError(f"shard {display(path)} is damaged: {_reason(error)}") from error


def display(path: Path) -> str:
    """Return a shard's path from ``facts`` on, as messages show it."""
    return "/".join(path.parts[-4:])


def named(steps: Sequence[str]) -> str:
    """Return the first three steps as text, and how many more there are."""
    shown = ["".join(character if character.isprintable() else "?" for character in step) for step in steps[:3]]
    more = f" and {len(steps) - 3} more" if len(steps) > 3 else ""
    return f"{'step' if len(steps) == 1 else f'{len(steps)} steps:'} {', '.join(shown)}{more}"


def changed(path: Path) -> str:
    """Return the error for a shard whose bytes are not those that were sealed."""
    return f"shard {display(path)} has changed since it was sealed: its SHA-256 differs"


def newer(what: str, version: int) -> str:
    """Return the error for something written with a newer schema."""
    return (
        f"{what} was written with schema version {version}, this VMoER reads up to {SCHEMA_VERSION}: "
        "upgrade VMoER to open it"
    )


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"no {text} in its metadata" if isinstance(error, KeyError) else text
