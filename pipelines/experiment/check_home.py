"""Check what a data folder holds beside its results: trained routers with their logs, and the job database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pipelines.preparation.train import is_trained, read_log
from pipelines.settings import Settings
from store.verify import Problem
from vmoer import checkpoint
from vmoer.errors import CheckpointError

#: what the job database holds as JSON
_JSON = (
    "SELECT inputs FROM workflow_status",
    "SELECT output FROM workflow_status",
    "SELECT output FROM operation_outputs",
    "SELECT value FROM workflow_events",
)


def check_home(settings: Settings) -> Iterator[Problem]:
    """Every checkpoint that is not as it was written, and what SQLite finds wrong with the job database."""
    for folder in sorted((settings.home / "routers").glob("*")):
        if is_trained(folder):
            try:
                checkpoint.check(folder)
                read_log(folder)
            except (CheckpointError, OSError, ValueError, KeyError, TypeError) as error:
                where = f"routers/{folder.name}"
                sentence = f"{where}: {error} Remove the folder, and the next run trains it again."
                yield Problem("checkpoint", "", where, sentence)
    path = settings.home / "jobs.sqlite"
    if not settings.jobs_url and path.is_file():
        reason = _damage(path)
        if reason is not None:
            sentence = f"jobs.sqlite is damaged ({reason}): move it away; results are kept, waiting jobs are lost"
            yield Problem("jobs", "", path.name, sentence)


def _damage(path: Path) -> str | None:
    """Return what SQLite says of its file; of values it keeps no checksum, so those that are JSON are parsed."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                return str(found).replace("\n", " ")[:200]
            for question in _JSON:
                for (text,) in connection.execute(question):
                    json.loads(text or "null")
    except (sqlite3.Error, ValueError) as error:
        return str(error)[:200]
    return None
