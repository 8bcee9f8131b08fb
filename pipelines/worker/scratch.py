"""Folders for actors that share none: each goes with its process, or with the next one when that was killed.

Its process holds an operating-system lock on the folder; one that nobody holds belongs to nobody.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "vmoer-actor-"


class Scratch:
    """A new folder at ``path`` among the temporary files until :meth:`remove`; what dead processes left goes first."""

    def __init__(self) -> None:
        sweep()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            handle = _hold(self.path)
            if handle is not None:
                self._handle = handle
                return

    def remove(self) -> None:
        """Give the folder and its lock up."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)


def sweep() -> None:
    """Remove the folders whose processes are dead."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        handle = _hold(path)
        if handle is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def _hold(path: Path) -> int | None:
    """A handle with the lock of a folder that is there and is held by nobody else and is ours."""
    handle = None
    with suppress(OSError):  # someone else's, or gone since
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_uid == os.getuid() and path.is_dir():
            return handle
    if handle is not None:
        os.close(handle)
    return None
