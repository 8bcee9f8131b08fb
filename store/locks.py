"""Lock files: the operating system's lock, freed however its holder ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store import layout
from store.errors import StoreBusyError

KEEPER_SECONDS = 60.0


@contextmanager
def exclusive(path: Path, timeout: float, busy: Exception) -> Iterator[None]:
    """Hold the lock on ``path`` inside the block; raise ``busy`` after ``timeout`` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise busy from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def maintenance_lock(home: layout.Home, timeout: float = KEEPER_SECONDS) -> Iterator[None]:
    """Hold the lock for compacting and removing runs, which wait for each other."""
    busy = StoreBusyError(
        f"another process is compacting {home} or removing runs from it; waited {timeout:g} s for it: try again later"
    )
    with exclusive(layout.runs_folder(home) / ".lock", timeout, busy):
        yield
