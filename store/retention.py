"""Measure what runs cost on the disk, and remove runs while readers go on reading."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from store import layout
from store.catalog import delete_run, list_manifests, read_manifest, run_ids
from store.errors import CorruptStoreError
from store.locks import maintenance_lock
from store.publish import (
    generations,
    listed_shards,
    publish,
    published_runs,
    readable_pointer,
    refuse_newer,
    shard_paths,
)

# An open reader of a generation that is no longer current has this long to finish with it.
GRACE_SECONDS = 600.0


@dataclass(frozen=True)
class Removed:
    """Runs removed, bytes freed now, and bytes that `vmoer compact` frees once no reader can need them."""

    runs: int
    bytes_freed: int
    bytes_later: int


def run_sizes(home: layout.Home) -> dict[str, int]:
    """Return bytes on the disk by run id: its manifest and every shard in its folders, replaced ones included."""
    sizes = {run_id: _size(layout.manifest_path(home, run_id)) for run_id in run_ids(home)}
    for folder in layout.facts_folder(home).glob("table=*/run_id=*"):
        run_id = folder.name.removeprefix("run_id=")
        sizes[run_id] = sizes.get(run_id, 0) + sum(_size(path) for path in folder.iterdir())
    return sizes


def remove_runs(home: layout.Home, ids: Sequence[str], grace: float = GRACE_SECONDS) -> Removed:
    """Remove runs and publish without them; an unknown id is refused before anything is removed.

    Readers of earlier generations keep the rows for ``grace`` seconds; then ``compact`` frees the shards. A run whose
    removal was killed before publishing has no manifest and is still shown: it counts as known.
    """
    refuse_newer(home)
    there, shown = set(run_ids(home)), published_runs(home)
    for run_id in ids:
        if run_id in there or run_id not in shown:
            read_manifest(home, run_id)
    with maintenance_lock(home):
        sizes = run_sizes(home)
        for run_id in there & set(ids):
            delete_run(home, run_id)
        publish(home)
        freed = remove_unused(home, grace)[1]
    held = sum(sizes.get(run_id, 0) for run_id in set(ids))
    return Removed(len(set(ids)), freed, max(held - freed, 0))


def reclaimable(home: layout.Home) -> int:
    """Return the bytes that ``compact`` would free once every grace period is over."""
    return sum(_size(path) for path in unused(home, -1.0))


def remove_unused(home: layout.Home, grace: float) -> tuple[int, int]:
    """Remove what :func:`unused` finds: files removed and the bytes they held."""
    removed = freed = 0
    for path in list(unused(home, grace)):
        size = _size(path)
        path.unlink(missing_ok=True)
        removed, freed = removed + 1, freed + size
        if path.parent.name.startswith("run_id=") and not any(path.parent.iterdir()):
            path.parent.rmdir()
    return removed, freed


def unused(home: layout.Home, grace: float) -> Iterator[Path]:
    """Generations replaced longer than ``grace`` seconds ago, and shards as old that nothing else lists any more.

    All shards of an unsealed run count as needed; so does everything while a manifest cannot be read.
    """
    damaged: list[CorruptStoreError] = []
    manifests = list_manifests(home, damaged)
    if damaged:
        return
    replaced = _replaced(home, grace)
    yield from (layout.generation_path(home, number) for number in replaced)
    needed = listed_shards(home, [number for number in generations(home) if number not in replaced])
    unsealed = {manifest.run_id for manifest in manifests if not manifest.sealed}
    for manifest in manifests:
        if manifest.sealed:
            needed.update(path for found in shard_paths(home, manifest).values() for path in found)
    for folder in sorted(layout.facts_folder(home).glob("table=*/run_id=*")):
        if folder.name.removeprefix("run_id=") not in unsealed:
            for path in sorted(folder.iterdir()):
                if path not in needed and layout.is_shard_name(path.name) and _age(path) >= grace:
                    yield path


def _replaced(home: layout.Home, grace: float) -> list[int]:
    """Generations before the current one whose successor is older than ``grace`` seconds."""
    numbers = generations(home)
    current = readable_pointer(home)
    return [
        number
        for number, successor in pairwise(numbers)
        if successor <= current and _age(layout.generation_path(home, successor)) >= grace
    ]


def _age(path: Path) -> float:
    """Seconds since a file was written; negative when the clock was set back, so that nothing goes too early."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return -1.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
