"""The process that computes jobs: one per device, with an identity that survives restarts, so that it finds its jobs.

``run_worker`` serves a device's queue until it is told to stop; ``run_foreground`` computes one job in this process
and returns. Both hold the device's lock; a job left by a process that died is taken over by the next worker that
starts, or by one that is running, on whatever machine.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import Any

from dbos import DBOS, DBOSConfig
from sqlalchemy.exc import SQLAlchemyError

from pipelines import console
from pipelines.errors import JobError, PipelineError
from pipelines.jobs import client as jobs
from pipelines.jobs import inspections as live
from pipelines.jobs.database import connect, opening, serializer, wait_for_room
from pipelines.jobs.locks import DeviceLock, live_executors, lock_path
from pipelines.settings import Settings
from pipelines.spec.model import Spec
from pipelines.worker import inspection_step as livework
from pipelines.worker import workflow as engine
from pipelines.worker.progress import LISTENERS
from pipelines.worker.queue_polls import QueuePolls
from pipelines.worker.watchdog import look_after

_SHUTDOWN_SECONDS = 30.0
_ADOPT_SECONDS = 5.0
_LISTEN_SECONDS = 2.0


def detect_device(wanted: str) -> str:
    """The device ``auto`` means here: the first CUDA device, Apple's, else the CPU."""
    if wanted != jobs.ANY_DEVICE:
        return wanted
    import torch

    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def is_served(settings: Settings, device: str) -> bool:
    """Whether a live worker holds this device of this machine in the data folder."""
    lock = lock_path(settings.home, device, settings.machine_name)
    return lock.stem in live_executors(settings.home).values()


@contextmanager
def _launched(settings: Settings, executor: str, queues: Sequence[str], listen_seconds: float) -> Iterator[None]:
    """DBOS running in this process under an executor name, serving the given queues one job at a time.

    It listens for messages, which nothing here sends, and ends after ``listen_seconds`` at the latest.
    """
    config: DBOSConfig = {
        "name": jobs.APPLICATION,
        "system_database_url": settings.database_url,
        "application_version": jobs.APPLICATION_VERSION,
        "executor_id": executor,
        "log_level": "CRITICAL",
        "console_log_level": "CRITICAL",
        "serializer": serializer(),
        "run_migrations": True,
        "notification_listener_polling_interval_sec": listen_seconds,
    }
    with connect(settings) as client:  # beforehand: DBOS finds a queue that is added later after a second
        for name in queues:
            client.register_queue(
                name,
                worker_concurrency=1,
                polling_interval_sec=settings.poll_seconds,
                application_name=jobs.APPLICATION,
            )
    with opening(settings):
        dbos = DBOS(config=config)
        DBOS.listen_queues(list(queues))
        polls = QueuePolls()
        DBOS.launch()
    ended = threading.Event()
    wait_for_room(dbos._sys_db.engine, ended)
    threading.Thread(target=polls.look_on, args=(dbos, settings.poll_seconds), daemon=True).start()
    threading.Thread(target=look_after, args=(settings, queues[0], ended, console.say), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        DBOS.destroy(workflow_completion_timeout_sec=0)


def run_worker(settings: Settings, device: str, say: Callable[[str], None]) -> None:
    """Serve a device until SIGTERM or SIGINT: the step in flight is finished, everything else resumes next time."""
    name = detect_device(device)
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    executor = f"worker-{lock_path(settings.home, name, settings.machine_name).stem}"
    engine.configure(replace(settings, device=name))
    lock = DeviceLock(settings.home, name, executor, settings.machine_name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    live.publish_methods(livework.methods(), settings)
    with _launched(settings, executor, [jobs.queue_name(name), jobs.queue_name(), live.QUEUE], _LISTEN_SECONDS):
        for job_id in _adopt(settings, executor, name):
            say(f"taking over job {job_id}")
        say(f"worker ready on {name}, data folder {settings.home}")
        while not stop.wait(_ADOPT_SECONDS):
            _look_after_others(settings, executor, name, say)
        say("stopping after the step in flight")
        engine.STEP_LOCK.acquire(timeout=_SHUTDOWN_SECONDS)
        lock.release()
        os._exit(0)  # a workflow thread may be between two steps; its job goes on at the next start


def _adopt(settings: Settings, executor: str, device: str) -> list[str]:
    """Queue again, here, the jobs of processes that died and have no successor of the same name."""
    taken = []
    for job in jobs.list_jobs(settings):
        if job.lost and job.executor != executor:
            with connect(settings) as client:
                client.resume_workflow(job.job_id, queue_name=jobs.queue_name(device))
            taken.append(job.job_id)
    return taken


def _look_after_others(settings: Settings, executor: str, device: str, say: Callable[[str], None]) -> None:
    """Adopt what was lost since; one worker does it for all, so that no job is queued twice."""
    workers = [name for name in live_executors(settings.home) if name.startswith("worker-")]
    if workers and executor != min(workers):
        return
    try:
        for job_id in _adopt(settings, executor, device):
            say(f"taking over job {job_id}")
    except JobError as error:
        say(f"cannot look for lost jobs: {error}")


def run_foreground(
    spec: Spec,
    folders: Sequence[str],
    settings: Settings,
    device: str,
    listen: Callable[[str, dict[str, Any]], None],
) -> jobs.Job:
    """Compute an experiment in this process and return its ended job; Ctrl-C cancels it, and what is computed stays."""
    name = detect_device(device)
    engine.configure(replace(settings, device=name))
    executor = f"foreground-{os.getpid()}-{secrets.token_hex(4)}"
    queue = f"{executor}-queue"
    lock = DeviceLock(settings.home, name, executor, settings.machine_name)
    try:
        earlier = jobs.unfinished(spec.experiment, settings)
        if earlier is not None:
            with connect(settings) as client:  # its shards are there; this job goes on behind them
                client.cancel_workflow(earlier.job_id)
        with _launched(settings, executor, [queue], settings.poll_seconds):
            LISTENERS.append(listen)
            try:
                job_id = jobs.enqueue(jobs.workflow_input(spec, folders), queue, settings)
                return _watch(job_id, settings)
            finally:
                LISTENERS.remove(listen)
                with suppress(SQLAlchemyError):  # full disk: what ended the job is the error to show
                    DBOS.delete_queue(queue)
    finally:
        lock.release()


def _watch(job_id: str, settings: Settings) -> jobs.Job:
    """Wait for a job of this process; on Ctrl-C cancel it, let the step in flight end and raise again."""
    handle: Any = DBOS.retrieve_workflow(job_id)
    try:
        while handle.get_status().status in ("ENQUEUED", "PENDING"):
            threading.Event().wait(settings.poll_seconds)
    except KeyboardInterrupt:
        with suppress(SQLAlchemyError):  # on a full disk nothing is recorded: the job counts as lost
            DBOS.cancel_workflow(job_id)
            engine.STEP_LOCK.acquire(timeout=_SHUTDOWN_SECONDS)
        raise
    job = jobs.get_job(job_id, settings)
    if not job.ended:
        raise PipelineError(f"job {job_id} was taken over by another process; see `vmoer jobs list`")
    return job
