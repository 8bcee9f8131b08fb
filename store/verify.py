# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Verify that the data folder holds what was written; every problem names the run and the file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from store import engine, files, layout, schema, shards, summaries
from store.catalog import RunManifest, list_manifests, read_manifest, run_ids
from store.errors import CorruptStoreError, MissingStoreError, NewerSchemaError, StoreError
from store.publish import (
    current_number,
    generations,
    leftovers,
    listed_shards,
    manifest_digest,
    publish,
    readable_pointer,
    shard_paths,
)

PROBABILITY_TOLERANCE = 1e-6
SUM_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it was written: its kind, run, file, and a sentence for the user."""

    kind: str
    run_id: str
    path: str
    sentence: str


def verify(home: layout.Home, run_id: str | None = None, repair: bool = False) -> list[Problem]:
    """Return what is wrong in the data folder or in one run; an empty list when all is well.

    ``repair`` removes what killed writers left behind and publishes a new generation when the current one is missing,
    damaged or out of step with the shards; damaged shards cannot be repaired, only computed again.
    """
    if not layout.runs_folder(home).is_dir() and not layout.current_path(home).exists():
        raise MissingStoreError(f"there are no results yet in {home}: run `vmoer demo`")
    problems: list[Problem] = []
    if run_id is None:
        damaged: list[CorruptStoreError] = []
        manifests = list_manifests(home, damaged)
        problems += [Problem("manifest", "", "runs", str(error)) for error in damaged]
    else:
        manifests = [read_manifest(home, run_id)]
    unreadable: set[str] = set()
    superseded = listed_shards(home)
    with engine.connect() as connection:  # for all runs: making one takes longer than most questions to it
        for manifest in manifests:
            found = list(_check_shards(home, manifest, superseded))
            if any(problem.kind != "extra-shard" for problem in found):
                unreadable.add(manifest.run_id)
            else:
                found += _check_rows(connection, home, manifest)
            problems += found
    if run_id is None:
        problems += _check_orphans(home, superseded)
        problems += _check_leftovers(home, repair)
    readable = [manifest for manifest in manifests if manifest.run_id not in unreadable]
    stale = list(_check_generation(home, readable))
    if stale and repair:
        publish(home, reuse=False)
        stale = list(_check_generation(home, readable))
    if run_id is None:
        stale += _check_older_generations(home, repair)
    return problems + stale


def _relative(home: layout.Home, path: Path) -> str:
    return path.relative_to(home).as_posix()


def _check_shards(home: layout.Home, manifest: RunManifest, superseded: set[Path]) -> Iterator[Problem]:
    """Hash, row count and metadata of each shard; of an unsealed run, page checksums in place of the hash."""
    run_id = manifest.run_id
    if manifest.status == "finished" and not manifest.sealed:
        yield Problem("unsealed", run_id, f"runs/{run_id}.json", f"run {run_id} is finished but was never sealed")
    expected = manifest.shards or {}
    for table in schema.tables("fact", "result"):
        entries = {str(entry["name"]): entry for entry in expected.get(table.name, [])}
        for path in _all_paths(home, table.name, run_id, entries):
            entry = entries.get(path.name)
            steps = list(map(str, entry.get("steps", []))) if entry else []
            held = f"; it held the rows of {shards.named(steps)}" if steps else ""
            try:
                if manifest.sealed and entry is None:
                    if path in superseded:
                        continue  # compacting replaced it; readers of that generation still need it
                    sentence = f"shard {shards.display(path)} was added after run {run_id} was sealed"
                    yield Problem("extra-shard", run_id, _relative(home, path), sentence)
                    continue
                info = shards.check_info(path, table.name, run_id)
                if entry is None:
                    shards.check_pages(path)
                elif info.rows != entry["rows"]:
                    sentence = f"shard {shards.display(path)} has {info.rows} rows; {entry['rows']} were sealed{held}"
                    yield Problem("row-count", run_id, _relative(home, path), sentence)
                elif files.sha256(path) != entry["sha256"]:
                    yield Problem("hash", run_id, _relative(home, path), shards.changed(path) + held)
            except NewerSchemaError:
                raise
            except (StoreError, OSError) as error:
                kind = "shard" if path.exists() else "missing-shard"
                yield Problem(kind, run_id, _relative(home, path), str(error) + held)


def _all_paths(home: layout.Home, table: str, run_id: str, names: Iterable[str]) -> list[Path]:
    """The shards that should be there and those that are."""
    listed = {layout.shard_path(home, table, run_id, name) for name in names}
    return sorted(listed | set(shards.list_shards(home, table, run_id)))


# Each yields one row per offending key; {table} is read from the run's shards.
_LAYERS_PER_POSITION = """
SELECT coalesce(t.dataset, r.dataset) || '/' || coalesce(t.example_id, r.example_id) || ' position '
        || coalesce(t.position, r.position) AS what, coalesce(r.layers, []) AS layers
FROM (SELECT DISTINCT dataset, example_id, position FROM {tokens}) t
FULL JOIN (SELECT dataset, example_id, position, list_sort(list(layer)) AS layers FROM {routing} GROUP BY ALL) r
USING (dataset, example_id, position)
WHERE t.position IS NULL OR r.layers IS NULL OR r.layers <> $moe_layers::USMALLINT[]
LIMIT 1
"""
_PROBABILITIES = """
SELECT dataset || '/' || example_id AS what, list_sum(probs) AS total FROM {predictions}
WHERE abs(list_sum(probs) - 1) > $tolerance OR list_min(probs) < 0 OR probs[predicted + 1] < list_max(probs)
    OR correct <> (predicted = answer_index) OR abs(confidence - list_max(probs)) > $tolerance
LIMIT 1
"""
_EXPERTS = """
SELECT dataset || '/' || example_id || ' position ' || position || ' layer ' || layer AS what FROM {routing}
WHERE len(list_distinct(expert_index)) <> len(expert_index) OR len(gate_weight) <> len(expert_index)
    OR list_max(expert_index) >= $n_experts OR overlap <> len(list_intersect(expert_index, base_expert_index))
LIMIT 1
"""


def _check_rows(connection: duckdb.DuckDBPyConnection, home: layout.Home, manifest: RunManifest) -> Iterator[Problem]:
    """What must hold between the rows of one run whose shards are intact."""
    paths = shard_paths(home, manifest)
    run_id = manifest.run_id

    def first(sql: str, **parameters: Any) -> tuple[Any, ...] | None:
        scans = {table.name: engine.rows(table, paths.get(table.name, [])) for table in schema.tables("fact", "result")}
        return connection.execute(sql.format(**scans), parameters or None).fetchone()

    def problem(kind: str, table: str, sentence: str) -> Problem:
        return Problem(kind, run_id, f"facts/table={table}/run_id={run_id}", f"run {run_id}: {sentence}")

    for table in schema.tables("fact", "result"):
        if not paths.get(table.name):
            continue
        if table.name == "routing" and manifest.sealed:
            continue  # the check of layers per position, below, finds a second row too
        key = engine.names(table.key)
        twice = first(f"SELECT {key} FROM {{{table.name}}} GROUP BY ALL HAVING count(*) > 1 LIMIT 1")
        if twice:
            where = ", ".join(f"{name}={value}" for name, value in zip(table.key[1:], twice[1:], strict=True))
            yield problem("key", table.name, f"table {table.name} has more than one row for {where}")
    if manifest.sealed and (paths.get("routing") or paths.get("tokens")):
        layers = sorted(manifest.model.get("moe_layers") or [])
        gap = first(_LAYERS_PER_POSITION, moe_layers=layers)
        if gap:
            sentence = f"token {gap[0]} has routing rows for layers {gap[1]}; the model's MoE layers are {layers}"
            yield problem("routing-rows", "routing", sentence)
    if paths.get("routing"):
        wrong = first(_EXPERTS, n_experts=manifest.model.get("n_experts") or 0)
        if wrong:
            sentence = f"token {wrong[0]} has experts, gates or an overlap that do not fit together"
            yield problem("experts", "routing", sentence)
    if paths.get("predictions"):
        off = first(_PROBABILITIES, tolerance=PROBABILITY_TOLERANCE)
        if off:
            sentence = (
                f"prediction {off[0]} is inconsistent: its probabilities (sum {off[1]:.9g}), answer and confidence "
                "do not fit together"
            )
            yield problem("predictions", "predictions", sentence)


def _check_orphans(home: layout.Home, listed: set[Path]) -> Iterator[Problem]:
    """Shards without a run; those of a removed run that a reader of an earlier generation may still need are none."""
    known = set(run_ids(home))
    for folder in sorted(layout.facts_folder(home).glob("table=*/run_id=*")):
        owner = folder.name.removeprefix("run_id=")
        if owner not in known and any(layout.is_shard_name(path.name) for path in set(folder.iterdir()) - listed):
            yield Problem(
                "orphan",
                owner,
                _relative(home, folder),
                f"{_relative(home, folder)} belongs to no run: its manifest was deleted; `vmoer compact` removes it",
            )


def _check_leftovers(home: layout.Home, repair: bool) -> Iterator[Problem]:
    for path in leftovers(home):
        try:
            if time.time() - path.stat().st_mtime < files.LEFTOVER_SECONDS:
                continue
            if repair:
                path.unlink(missing_ok=True)
                continue
        except FileNotFoundError:
            continue  # its writer finished
        where = _relative(home, path)
        sentence = f"{where} was left by a process that was killed; `vmoer verify --repair` removes it"
        yield Problem("leftover", "", where, sentence)


def _check_older_generations(home: layout.Home, repair: bool) -> Iterator[Problem]:
    """Generations that CURRENT no longer names, kept for open readers, can be read; ``repair`` removes damaged ones."""
    current = readable_pointer(home)
    for number in generations(home):
        path = layout.generation_path(home, number)
        if number == current:
            continue
        try:
            with engine.connect(threads=1) as connection:
                engine.attach_generation(connection, path)
                _read_through(connection)
        except MissingStoreError:
            continue  # pruned by now
        except (CorruptStoreError, duckdb.Error):
            if repair:
                path.unlink(missing_ok=True)
                continue
            sentence = f"{path.name}, an older generation, is damaged; `vmoer verify --repair` removes it"
            yield Problem("generation", "", _relative(home, path), sentence)


def _check_generation(home: layout.Home, manifests: list[RunManifest]) -> Iterator[Problem]:
    """CURRENT leads to a readable generation whose rows are those of the shards."""
    try:
        number = current_number(home)
    except CorruptStoreError as error:
        yield Problem("current", "", "CURRENT", str(error))
        return
    if number is None:
        yield Problem("current", "", "CURRENT", "nothing has been published yet: `vmoer verify --repair` does it")
        return
    path = layout.generation_path(home, number)
    with engine.connect(threads=1) as connection:
        try:
            version = engine.attach_generation(connection, path)
            if version < schema.SCHEMA_VERSION:
                yield Problem("generation", "", _relative(home, path), engine.older_generation(path.name, version))
                return
            _read_through(connection)
            yield from _check_catalog(connection, manifests, _relative(home, path))
            for manifest in manifests:
                yield from _check_copies(connection, home, manifest, _relative(home, path))
        except (MissingStoreError, CorruptStoreError) as error:
            yield Problem("generation", "", _relative(home, path), f"CURRENT names {path.name}: {error}")
        except duckdb.Error as error:
            yield Problem("generation", "", _relative(home, path), engine.damaged_generation(path.name, error))


def _read_through(connection: duckdb.DuckDBPyConnection) -> None:
    """Read every value of the generation once: DuckDB checks a block when it is read, and raises."""
    tables = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_catalog = 'generation'"
    ).fetchall()
    for (name,) in tables:
        connection.execute(f'SELECT bit_xor(hash(rows)) FROM generation."{name}" AS rows').fetchall()


def _check_catalog(
    connection: duckdb.DuckDBPyConnection, manifests: list[RunManifest], where: str
) -> Iterator[Problem]:
    """The manifests of sealed runs are those that the generation was made from; an older one says nothing of them."""
    try:
        known = dict(connection.execute("SELECT run_id, sha256 FROM generation.store_manifests").fetchall())
    except duckdb.CatalogException:
        return
    for manifest in manifests:
        if manifest.sealed and known.get(manifest.run_id, manifest_digest(manifest)) != manifest_digest(manifest):
            sentence = f"run {manifest.run_id}: its manifest is not the one that was published: publish again"
            yield Problem("unpublished", manifest.run_id, where, sentence)


def _check_copies(
    connection: duckdb.DuckDBPyConnection, home: layout.Home, manifest: RunManifest, where: str
) -> Iterator[Problem]:
    """The generation's result and derived rows of a sealed run equal those made again from its shards."""
    run_id = manifest.run_id
    if not connection.execute("SELECT 1 FROM generation.runs WHERE run_id = ?", [run_id]).fetchall():
        if manifest.status not in ("queued", "running"):
            sentence = f"run {run_id} is not in the published generation: publish again"
            yield Problem("unpublished", run_id, where, sentence)
        return
    if not manifest.sealed:
        return
    # A table that cannot be read has been reported with its shard, and then differs here.
    fresh = summaries.run_tables(connection, manifest, shard_paths(home, manifest), lambda name, error: None)
    for table in schema.tables("result", "derived"):
        sql = f'SELECT * FROM generation."{table.name}" WHERE run_id = $run_id'
        stored = connection.sql(sql, params={"run_id": run_id}).to_arrow_table()
        if not _same(stored, fresh.get(table.name), table.key):
            sentence = f"run {run_id}: table {table.name} of the generation differs from its shards: publish again"
            yield Problem("summary", run_id, where, sentence)


def _same(stored: pa.Table, fresh: pa.Table | None, key: tuple[str, ...]) -> bool:
    """Whether two tables hold the same rows, in any order, sums up to rounding."""
    if fresh is None or stored.num_rows != fresh.num_rows:
        return stored.num_rows == (fresh.num_rows if fresh is not None else 0)
    order = [(name, "ascending") for name in key]
    left, right = stored.sort_by(order), fresh.sort_by(order)
    for name in fresh.column_names:
        a, b = left.column(name).combine_chunks(), right.column(name).combine_chunks()
        if a.cast(b.type).equals(b):
            continue
        if not pa.types.is_floating(b.type) or not np.array_equal(a.is_null(), b.is_null()):
            return False
        if not np.allclose(a.drop_null(), b.drop_null(), rtol=SUM_TOLERANCE, atol=SUM_TOLERANCE):
            return False
    return True
