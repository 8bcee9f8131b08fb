"""Beside the jobs of a process: says when the disk is full, and takes up jobs whose end could not be recorded.

When the job database cannot be written (for another reason than a full disk,
:func:`pipelines.jobs.database.wait_for_room`), DBOS gives the job up without a trace: it stays *running* on a live
executor with nobody working on it. What this process has stopped working on is therefore compared with what the
database says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pipelines.errors import JobError
from pipelines.jobs import client as jobs
from pipelines.jobs.database import connect
from pipelines.jobs.disk import WAITING, free_bytes
from pipelines.settings import Settings
from pipelines.worker import workflow as engine

# Below this the job database cannot record the next step.
_FULL_BYTES = 65_536
_LOOK_SECONDS = 1.0
# The database is told of a job's end within milliseconds of it.
_PATIENCE_SECONDS = 5.0


def look_after(settings: Settings, queue: str, ended: threading.Event, say: Callable[[str], None]) -> None:
    """Until ``ended``: tell of a full disk once, and put jobs that nobody works on back into ``queue``."""
    told = False
    stopped: dict[str, float] = {}
    while not ended.wait(_LOOK_SECONDS):
        full = bool(WAITING) or free_bytes(settings) < _FULL_BYTES
        if full and not told:
            say(
                f"the disk is full where {settings.home.name} lies: waiting for room; Ctrl-C stops, and what is "
                "finished is kept"
            )
        told = full
        stopped = {job_id: stopped.get(job_id, time.monotonic()) for job_id in tuple(engine.STOPPED)}
        for job_id, since in stopped.items():
            if not full and time.monotonic() - since > _PATIENCE_SECONDS:
                _take_up(job_id, settings, queue, say)


def _take_up(job_id: str, settings: Settings, queue: str, say: Callable[[str], None]) -> None:
    try:
        if jobs.get_job(job_id, settings).status == "running":
            with connect(settings) as client:
                client.resume_workflow(job_id, queue_name=queue)
            say(f"going on with job {job_id}")
        engine.STOPPED.discard(job_id)
    except JobError:
        return  # still no room: look again
