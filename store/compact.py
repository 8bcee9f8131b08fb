# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Merge a finished run's many shards into few sorted ones, and remove files that nothing needs any more."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from store import engine, files, layout, schema, shards, summaries, typed
from store.catalog import RunManifest, list_manifests, read_manifest, sweep, write_manifest
from store.errors import CorruptShardError, StoreBusyError, StoreError
from store.locks import maintenance_lock
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

    Rows stay the same, those of a merged shard sorted by their key; it holds shards as a whole, so that losing it costs
    no more than those. Readers that are open keep what they read for ``grace`` seconds after it was replaced.
    """
    refuse_newer(home)
    if run_id is not None:
        read_manifest(home, run_id)
    if not layout.runs_folder(home).is_dir():
        return Compacted(0, 0, 0, 0)
    with maintenance_lock(home):
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
        if len(entries) < 2 or sum(sorted(int(entry["rows"]) for entry in entries)[:2]) > rows_per_shard:
            continue
        found = dict(zip(paths[name], entries, strict=True))
        for path, entry in found.items():
            shards.check_info(path, name, run_id)
            if files.sha256(path) != entry["sha256"]:
                raise CorruptShardError(shards.changed(path))
        kept: list[dict[str, Any]] = []
        for group in _groups(schema.TABLES[name], found, rows_per_shard):
            if len(group) == 1:
                kept.append(found[group[0]])
                continue
            kept.append(_merge(home, schema.TABLES[name], run_id, {path: found[path] for path in group}))
            before, after = before + len(group), after + 1
        listed[name] = sorted(kept, key=lambda entry: str(entry["name"]))
    if before:
        if read_manifest(home, run_id) != manifest:
            raise StoreBusyError(f"run {run_id} was changed while it was compacted: compact again")
        write_manifest(home, replace(manifest, shards=listed))
    return before, after


def _groups(table: schema.Table, entries: dict[Path, dict[str, Any]], rows_per_shard: int) -> list[list[Path]]:
    """The shards in the order of their first keys, neighbours together while they hold at most ``rows_per_shard``."""
    first = (
        f"SELECT filename, min(row({engine.names(table.key)})) AS first FROM {engine.scan(list(entries), named=True)}"
    )
    rows = _asked(f"SELECT filename FROM ({first} GROUP BY filename) ORDER BY first, filename", list(entries))
    order = {name: place for place, name in enumerate(rows["filename"].to_pylist())}  # without those that have no rows
    groups: list[list[Path]] = []
    room = -1
    for path in sorted(entries, key=lambda path: (order.get(str(path), -1), path)):
        rows_here = int(entries[path]["rows"])
        if rows_here > room:
            groups.append([])
            room = rows_per_shard
        groups[-1].append(path)
        room -= rows_here
    return groups


def _merge(home: layout.Home, table: schema.Table, run_id: str, entries: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """Write the rows of ``entries``, sorted by key, as one shard named after them; its entry in the manifest."""
    paths = list(entries)
    sql = f"SELECT {engine.names(table.column_names)} FROM {engine.scan(paths)} ORDER BY {engine.names(table.key)}"
    inputs = hashlib.sha256("".join(path.name for path in paths).encode()).hexdigest()
    said = [shards.read_info(path).steps for path in paths]
    steps = [step for some in said for step in some] if all(said) else []
    rows = _asked(sql, paths).cast(typed.arrow_schema(table))
    written = shards.write_shard(home, table.name, run_id, inputs, rows, steps)
    before = sum(int(entry.get("merged") or len(entry.get("steps", ())) or 1) for entry in entries.values())
    return shards.entry(written, table.name, run_id) | ({} if steps else {"merged": before})


def _asked(sql: str, paths: list[Path]) -> pa.Table:
    """Return the result of a query over ``paths``."""
    with engine.connect() as connection:
        try:
            return connection.sql(sql).to_arrow_table()
        except (duckdb.Error, pa.ArrowException) as error:
            raise (
                files.cannot_write("merged shards", error)
                or summaries.find_damaged(paths)
                or StoreError(
                    f"the shards of {shards.display(paths[0].parent)} cannot be merged: {engine.first_line(error)}"
                )
            ) from error
