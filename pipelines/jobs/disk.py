"""Room on the disk: what is asked before a job starts and before each step writes, and waiting for it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from pipelines.errors import PipelineError
from pipelines.settings import Settings
from store.errors import WriteError
from store.files import cannot_write
from store.retention import reclaimable, run_sizes

Result = TypeVar("Result")

#: jobs of this process whose step met a full disk and waits
WAITING: set[str] = set()

_MB = 1_000_000
_LONGEST_PAUSE = 30.0


def size(n_bytes: int) -> str:
    """A number of bytes as a person reads it, in decimal units."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} bytes"


def free_bytes(settings: Settings) -> int:
    """What is free on the disk of the data folder."""
    return shutil.disk_usage(settings.home).free


def folder_bytes(settings: Settings) -> int:
    """What the files of the data folder hold; one that goes while it is counted counts nothing."""
    total = 0
    for folder, _, names in os.walk(settings.home):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def refuse_full_disk(settings: Settings) -> None:
    """Raise when less than ``min_free_mb`` is free where the data folder lies.

    Ending the job while there still is some says why; what fills up all the same is waited for.
    """
    free = free_bytes(settings) / _MB
    if free < settings.min_free_mb:
        raise PipelineError(
            f"only {free:.1f} MB are free where {settings.home.name} lies, and a job needs {settings.min_free_mb:g} MB "
            "(VMOER_MIN_FREE_MB): free some space and start again; what is finished is kept"
        )


def with_room(
    step: Callable[[], Result],
    job_id: str,
    settings: Settings,
    note: Callable[..., None],
    left: Callable[[], int] = lambda: 0,
) -> Result:
    """What ``step`` returns; it is repeated when it met a full disk, for up to ``room_minutes`` and at least once a
    half-minute while ``min_free_mb`` are free. ``note(event, reason=…)`` is told of each time. The minutes count anew
    when less is ``left`` to do than the time before.
    """
    refuse_full_disk(settings)
    pause, deadline, before = 1.0, float("inf"), left()
    try:
        while True:
            try:
                return step()
            except Exception as error:
                if left() < before:
                    pause, deadline, before = 1.0, float("inf"), left()
                deadline = min(deadline, time.monotonic() + 60 * settings.room_minutes)
                if not met_full_disk(error) or time.monotonic() + pause > deadline:
                    raise
                note("waiting for room", reason=str(error))
            WAITING.add(job_id)
            time.sleep(pause)
            while free_bytes(settings) < settings.min_free_mb * _MB and time.monotonic() < deadline:
                time.sleep(1.0)
            pause = min(2 * pause, _LONGEST_PAUSE)
    finally:
        WAITING.discard(job_id)


def met_full_disk(error: Exception) -> bool:
    """Whether the operating system refused to write for want of room."""
    refused = error if isinstance(error, WriteError) else cannot_write("", error)
    return refused is not None and refused.full


def refuse_over_quota(settings: Settings) -> None:
    """Raise when the data folder is larger than ``quota_gb``, saying what would free how much."""
    if not settings.quota_gb:
        return
    held = folder_bytes(settings)
    if held <= settings.quota_gb * 1e9:
        return
    ways = []
    waste = reclaimable(settings.home)
    if waste:
        ways.append(f"`vmoer compact` frees {size(waste)}")
    runs = run_sizes(settings.home)
    if runs:
        largest = max(runs, key=lambda run_id: runs[run_id])
        ways.append(f"`vmoer runs rm {largest}` {size(runs[largest])}, all {len(runs)} runs {size(sum(runs.values()))}")
    raise PipelineError(
        f"the data folder holds {size(held)}, more than the quota of {settings.quota_gb:g} GB (VMOER_QUOTA_GB)"
        + (f": {'; '.join(ways)}" if ways else "")
    )
