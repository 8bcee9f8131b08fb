# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Compacting: a finished run's many shards become few sorted ones; what nothing refers to is removed after a while."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from store import engine, files, layout, schema, shards, summaries, typed
from store.catalog import RunManifest, list_manifests, read_manifest, sweep, write_manifest
from store.errors import CorruptShardError, StoreBusyError, StoreError
from store.locks import only_keeper
from store.publish import listed_shards, publish, readable_pointer, refuse_newer, shard_paths
from store.retention import GRACE_SECONDS, remove_unused

ROWS_PER_SHARD = 1_000_000


@dataclass(frozen=True)
class Compacted:
    """What compacting did: shards merged, shards written for them, files removed and the bytes they held."""

    merged: int
    written: int
    removed: int
    bytes_freed: int


def compact(
    home: layout.Home, run_id: str | None = None, grace: float = GRACE_SECONDS, rows_per_shard: int = ROWS_PER_SHARD
) -> Compacted:
    """Merge the shards of one sealed run, or of all; then remove files older than ``grace`` seconds that nothing needs.

    Rows stay the same, sorted by their key. Readers that are open keep what they read for ``grace`` seconds after it
    was replaced.
    """
    refuse_newer(home)
    if run_id is not None:
        read_manifest(home, run_id)
    if not layout.runs_folder(home).is_dir():
        return Compacted(0, 0, 0, 0)
    with only_keeper(home):
        manifests = [read_manifest(home, run_id)] if run_id is not None else list_manifests(home)
        merged = written = 0
        for manifest in manifests:
            if manifest.sealed:
                before, after = _merge_run(home, manifest.run_id, rows_per_shard)
                merged, written = merged + before, written + after
        if merged or _out_of_step(home, manifests):  # an earlier attempt may have been killed before it published
            publish(home)
        removed, freed = remove_unused(home, grace)
        return Compacted(merged, written, removed, freed)


def _out_of_step(home: layout.Home, manifests: list[RunManifest]) -> bool:
    """Whether the current generation lists other shards of a sealed run than its manifest does."""
    listed = listed_shards(home, [readable_pointer(home)])
    wanted = (path for one in manifests if one.sealed for found in shard_paths(home, one).values() for path in found)
    return any(path not in listed for path in wanted)


def _merge_run(home: layout.Home, run_id: str, rows_per_shard: int) -> tuple[int, int]:
    manifest = read_manifest(home, run_id)
    sweep(home, run_id)
    listed: dict[str, list[dict[str, Any]]] = dict(manifest.shards or {})
    paths = shard_paths(home, manifest)
    before = after = 0
    for name, entries in listed.items():
        rows = sum(int(entry["rows"]) for entry in entries)
        if len(entries) <= max(1, -(-rows // rows_per_shard)):
            continue
        for path, entry in zip(paths[name], entries, strict=True):
            shards.check_info(path, name, run_id)
            if files.sha256(path) != entry["sha256"]:
                raise CorruptShardError(shards.changed(path))
        merged = list(_write_merged(home, schema.TABLES[name], run_id, paths[name], rows_per_shard))
        steps = sum(int(entry.get("merged", 1)) for entry in entries)
        listed[name] = [
            {"name": path.name, "sha256": files.sha256(path), "rows": shards.read_info(path).rows, "merged": steps}
            for path in sorted(merged)
        ]
        before, after = before + len(entries), after + len(merged)
    if before:
        if read_manifest(home, run_id) != manifest:
            raise StoreBusyError(f"run {run_id} was changed while it was compacted: compact again")
        write_manifest(home, replace(manifest, shards=listed))
    return before, after


def _write_merged(
    home: layout.Home, table: schema.Table, run_id: str, paths: list[Path], rows_per_shard: int
) -> Iterator[Path]:
    """Stream the rows of ``paths``, sorted by key, into new shards named after their inputs."""
    inputs = hashlib.sha256("".join(path.name for path in paths).encode()).hexdigest()
    target = typed.arrow_schema(table)
    sql = f"SELECT {engine.names(table.column_names)} FROM {engine.scan(paths)} ORDER BY {engine.names(table.key)}"
    with engine.connect() as connection:
        try:
            reader = connection.sql(sql).to_arrow_reader(shards.ROW_GROUP)
            held: list[pa.RecordBatch] = []
            number = 0
            for batch in reader:
                held.append(batch.cast(target))
                if sum(one.num_rows for one in held) >= rows_per_shard:
                    yield shards.write_shard(
                        home, table.name, run_id, f"{inputs}/{number}", pa.Table.from_batches(held)
                    )
                    held, number = [], number + 1
            if held:
                yield shards.write_shard(home, table.name, run_id, f"{inputs}/{number}", pa.Table.from_batches(held))
        except (duckdb.Error, pa.ArrowException) as error:
            raise (
                files.cannot_write("merged shards", error)
                or summaries.find_damaged(paths)
                or StoreError(
                    f"the shards of {shards.display(paths[0].parent)} cannot be merged: {engine.first_line(error)}"
                )
            ) from error
