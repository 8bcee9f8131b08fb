"""Write files atomically: a reader sees the old or the new content, also after a power cut or on a full disk."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from store.errors import StoreError, WriteError

TEMPORARY_SUFFIX = ".tmp"
# A younger temporary file may belong to a writer at work.
LEFTOVER_SECONDS = 60.0

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and start again: what is finished is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and start again: what is finished is kept",
    errno.EFBIG: "it would be larger than a file may be here",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "there is no permission to write there",
    errno.EPERM: "there is no permission to write there",
    errno.EMFILE: "this process has as many files open as it may (`ulimit -n`)",
    errno.ENFILE: "this machine has as many files open as it can",
}

# What a library's text may be searched for: these errors come from writing, or hit reading and writing alike.
_IN_TEXT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE)


def cannot_write(name: str, error: Exception) -> WriteError | None:
    """Turn an operating-system error about writing ``name`` into a ``WriteError``; return None for any other error.

    Libraries in C++ pass on its words, not its number.
    """
    found: int | None = error.errno if isinstance(error, OSError) else None
    if found not in _REASONS:
        text = str(error)
        found = next((number for number in _IN_TEXT if os.strerror(number) in text), None)
    if found is not None:
        return WriteError(f"cannot write {name}: {_REASONS[found]}", full=found in (errno.ENOSPC, errno.EDQUOT))
    if isinstance(error, OSError):
        return WriteError(f"cannot write {name}: {error.strerror or error}")
    return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes ``path`` when the block ends without an error.

    What the operating system refuses is raised as ``WriteError``; nothing half-written stays, side files included.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # who may not write here learns it from Python, whatever library writes next
        temporary.unlink()
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except Exception as error:
        refused = None if isinstance(error, StoreError) else cannot_write(path.name, error)
        if refused is not None:
            raise refused from error
        raise
    finally:
        with suppress(OSError):  # the error above is the one to show
            remove_with_sides(temporary)


def remove_stale(path: Path) -> None:
    """Delete temporary files of ``path`` that are too old for a writer to be at work on them."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY_SUFFIX}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFTOVER_SECONDS:
                left.unlink()


def remove_with_sides(path: Path) -> None:
    """Remove a file and what a database keeps beside it (``.wal``)."""
    # no pattern: compiling one for a name used once takes longer than all the rest
    sides = [name for name in os.listdir(path.parent) if name.startswith(f"{path.name}.")]
    for left in (path.name, *sides):
        path.with_name(left).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8), atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk where the platform can: a rename is durable only after this."""
    try:
        sync_file(path)
    except OSError:
        return


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
