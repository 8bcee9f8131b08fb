"""Deterministic faults in one process: every write of the product is an event, and at the n-th one something happens.

Nothing in the product knows of this. Events come from Python's audit hooks (files opened for writing, renames,
removals, folders), from ``os.fsync``, from Parquet row groups, from statements of DuckDB and of the job database, and
from the steps of the engine. An event is told *before* what it names is done; the moment after is the next event.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FILES = {"os.rename": "rename", "os.remove": "remove", "os.mkdir": "folder", "os.rmdir": "remove folder"}
_DUCKDB = ("BEGIN", "CREATE TABLE", "INSERT", "COPY", "COMMIT", "CHECKPOINT", "DETACH EXPORTED")
_JOBS = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP")


class Faults:
    """Counts the events of this process below ``folder`` and calls ``act(label)`` at number ``at`` (from 1).

    Without ``at`` it only counts. ``labels`` holds what happened so far, in order.
    """

    def __init__(self, folder: Path, at: int | None = None, act: Callable[[str], None] | None = None) -> None:
        self.folder = os.path.realpath(folder)
        self.labels: list[str] = []
        self._at, self._act = at, act
        self._lock = threading.RLock()
        self._acting = False

    def install(self) -> Faults:
        """Watch from now on, until the process ends: an audit hook cannot be taken off."""
        sys.addaudithook(self._audit)
        _watch_fsync(self.event)
        _watch_parquet(self.event)
        _watch_duckdb(self.event)
        _watch_jobs(self.event)
        _watch_steps(self.event)
        return self

    def event(self, label: str) -> None:
        """One more write is about to be done."""
        with self._lock:
            if self._acting:
                return
            self.labels.append(label)
            if len(self.labels) == self._at and self._act is not None:
                self._acting = True
                self._act(label)
                self._acting = False

    def _audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and self._inside(path):
                self.event(f"open {_short(path)}")
        elif name in _FILES and self._inside(arguments[0]):
            target = arguments[1] if name == "os.rename" else arguments[0]
            self.event(f"{_FILES[name]} {_short(target)}")

    def _inside(self, path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.folder + os.sep)


def kill(_label: str) -> None:
    """End this process as ``kill -9`` does: no clean-up of any kind."""
    os.kill(os.getpid(), signal.SIGKILL)


def _short(path: Any) -> str:
    """The last two parts of a path, without what is random in a temporary name."""
    parts = Path(os.fsdecode(path)).parts[-2:]
    name = parts[-1]
    if name.startswith(".") and name.endswith(".tmp"):
        name = f"{name.rsplit('.', 2)[0]}.tmp"
    return "/".join((*parts[:-1], name))


def _watch_fsync(event: Callable[[str], None]) -> None:
    real = os.fsync

    def fsync(descriptor: Any) -> None:
        event("fsync")
        real(descriptor)

    os.fsync = fsync


def _watch_parquet(event: Callable[[str], None]) -> None:
    """A kill between the two events leaves a file with rows and no footer."""
    from pyarrow.parquet import ParquetWriter

    real = ParquetWriter.write_table

    def write_table(self: Any, *arguments: Any, **options: Any) -> None:
        event("parquet rows")
        real(self, *arguments, **options)
        event("parquet footer")

    ParquetWriter.write_table = write_table


def _watch_duckdb(event: Callable[[str], None]) -> None:
    from store import engine

    real = engine.connect

    def connect(*arguments: Any, **options: Any) -> Any:
        return _Connection(real(*arguments, **options), event)

    engine.connect = connect


class _Connection:
    """A DuckDB connection that tells of each statement that writes."""

    def __init__(self, connection: Any, event: Callable[[str], None]) -> None:
        self._connection, self._event = connection, event

    def execute(self, sql: str, *arguments: Any) -> Any:
        upper = sql.strip().upper()
        if upper.startswith(_DUCKDB):
            self._event(f"duckdb {' '.join(sql.split()[:3])}")
        return self._connection.execute(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: Any) -> None:
        self._connection.close()


def _watch_jobs(event: Callable[[str], None]) -> None:
    from sqlalchemy import Engine
    from sqlalchemy import event as listeners

    writing: set[int] = set()

    def statement(connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        words = sql.strip().upper()
        if words.startswith(_JOBS):
            writing.add(id(connection))
            event(f"jobs {' '.join(sql.split()[:3])}")

    def commit(connection: Any) -> None:
        if id(connection) in writing:
            writing.discard(id(connection))
            event("jobs commit")

    listeners.listen(Engine, "before_cursor_execute", statement)
    listeners.listen(Engine, "commit", commit)


def _watch_steps(event: Callable[[str], None]) -> None:
    """The boundaries between the engine's steps: before one begins, and when it is done and on record."""
    from pipelines.worker import workflow as engine

    real = engine.step

    def step(job: Any, name: str, *arguments: Any) -> Any:
        event(f"step {name}")
        return real(job, name, *arguments)

    engine.step = step
