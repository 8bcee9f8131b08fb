"""The job database: opened, created when absent or left empty by a killed maker; whatever is wrong is one sentence."""

from __future__ import annotations

import logging
import platform
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from pipelines.errors import JobError
from pipelines.settings import Settings

if TYPE_CHECKING:
    from dbos import DBOSClient
    from sqlalchemy import Engine
    from sqlalchemy.engine import ExceptionContext

#: job servers whose tables this process knows to be there
_MIGRATED: set[str] = set()


def serializer() -> Any:
    """JSON instead of pickle: reading the job database must never run code."""
    from dbos import DBOSPortableJSONSerializer

    return DBOSPortableJSONSerializer()


@contextmanager
def connect(settings: Settings) -> Iterator[DBOSClient]:
    """A connection to the job database, which is created when absent."""
    from dbos import DBOS, DBOSClient
    from sqlalchemy.exc import SQLAlchemyError

    url = settings.database_url
    logging.getLogger("dbos").setLevel(logging.CRITICAL)  # what goes wrong is raised, and said once
    with opening(settings):
        if url not in _MIGRATED and not _migrated(settings):
            settings.home.mkdir(parents=True, exist_ok=True)
            _check_sqlite(settings)
            DBOS.migrate(url)
        _MIGRATED.add(url)
        client = DBOSClient(system_database_url=url, serializer=serializer(), retry_connection_errors=False)
    try:
        yield client
    except SQLAlchemyError as error:
        raise JobError(f"cannot use the job database: {reason_of(error)}") from None
    finally:
        client.destroy()


@contextmanager
def opening(settings: Settings) -> Iterator[None]:
    """Whatever keeps the job database from being opened becomes one sentence."""
    try:
        yield
    except OSError as error:
        raise JobError(f"cannot use the data folder {settings.home}: {error.strerror}") from None
    except Exception as error:  # SQLAlchemy and DBOS raise many kinds
        raise JobError(f"cannot open the job database: {reason_of(error)}") from None


def wait_for_room(engine: Engine, ended: threading.Event) -> None:
    """Until ``ended``, make DBOS repeat what a full disk keeps it from writing, as it repeats a lost connection.

    Not in the main thread: whoever gave the command is told at once, and can interrupt it.
    """
    from sqlalchemy import event, exc

    def repeat(context: ExceptionContext) -> None:
        full = "disk is full" in str(context.original_exception)
        if full and not ended.is_set() and threading.current_thread() is not threading.main_thread():
            raise exc.TimeoutError("waiting for room on the disk")

    event.listen(engine, "handle_error", repeat)


def reason_of(error: Exception) -> str:
    """The first line of a database error, without the driver's class names."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^(\([\w.]+\) )+", "", first)[:200]


def exists(settings: Settings) -> bool:
    """Whether there is a job database; a database server is taken to have one."""
    return bool(settings.jobs_url) or (settings.home / "jobs.sqlite").exists()


def _check_sqlite(settings: Settings) -> None:
    """Refuse an SQLite without the function that DBOS takes times from under Python 3.12 and later: it stores NULL."""
    from dbos import _migration

    with closing(sqlite3.connect(":memory:")) as database:
        told = database.execute("SELECT " + _migration.get_sqlite_timestamp_expr()).fetchone()[0]
    if told is None and not settings.jobs_url:
        raise JobError(
            f"Python {platform.python_version()} needs SQLite 3.42 or later for it, and has {sqlite3.sqlite_version}; "
            "take a Python with a later one, Python 3.11, or a job server (VMOER_JOBS_URL)"
        )


def _migrated(settings: Settings) -> bool:
    """Whether the SQLite file has its tables: its maker may have died, or met a full disk, before they were in it."""
    file = settings.home / "jobs.sqlite"
    if settings.jobs_url or not file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute("SELECT version FROM dbos_migrations").fetchone() is not None
    except sqlite3.Error:
        return False
