"""Client of the job queue, for the app and the command line: submit, watch, cancel, resume. Never imports torch.

A job is one experiment being computed. Its state lives in the job database (see ``Settings.database_url``) and outlives
every process; workers (:mod:`pipelines.worker.process`) pick jobs up from their device's queue.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import JobError
from pipelines.jobs.database import connect, exists
from pipelines.jobs.disk import refuse_over_quota
from pipelines.jobs.locks import live_executors, stopped_executors, stopped_sentence
from pipelines.settings import Settings, load_settings
from pipelines.spec.model import Spec
from store.layout import contained

if TYPE_CHECKING:
    from dbos import DBOSClient, EnqueueOptions

#: fixed on purpose: the default of DBOS changes with the code, and a changed version stops recovery
APPLICATION = "vmoer"
APPLICATION_VERSION = "1"
#: raised when the steps of an experiment or their order change: a job begun with others is refused, not replayed
STEPS = 2
WORKFLOW = "experiment"
PROGRESS_EVENT = "progress"
ANY_DEVICE = "auto"

_STATUS = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
    "SUCCESS": "finished",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
}
ENDED = ("finished", "failed", "cancelled")


@dataclass(frozen=True)
class Job:
    """One job as it stands; ``rate`` is units (tokens or questions) per second, times are UTC."""

    job_id: str
    name: str
    status: str
    stage: str
    done: int
    total: int
    stage_done: int
    stage_total: int
    rate: float | None
    eta_seconds: float | None
    message: str
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    experiment: str
    run_ids: tuple[str, ...]
    lost: bool
    executor: str

    @property
    def ended(self) -> bool:
        """True when nothing more will happen to it on its own."""
        return self.status in ENDED

    def progress(self) -> dict[str, Any]:
        """The job as a progress event, as a listener of the engine gets it."""
        fields = ("stage", "message", "done", "total", "stage_done", "stage_total", "rate", "eta_seconds")
        return {name: getattr(self, name) for name in fields}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, times in ISO 8601."""
        values = asdict(self)
        for name in ("submitted_at", "started_at", "ended_at"):
            values[name] = values[name].isoformat() if values[name] else None
        return {**values, "run_ids": list(self.run_ids)}


def queue_name(device: str = ANY_DEVICE) -> str:
    """The queue of a device; every worker also serves the queue of ``auto``."""
    return f"device:{device}"


def submit(
    spec: Spec,
    *,
    folders: Sequence[str] = (),
    device: str = ANY_DEVICE,
    settings: Settings | None = None,
) -> str:
    """Queue an experiment for a device's worker and return its job id.

    An unfinished job of the same spec is returned instead of a second one; a full queue is refused. ``folders`` resolve
    the spec's relative paths (:func:`pipelines.spec.model.places`).
    """
    settings = settings or load_settings()
    existing = unfinished(spec.experiment, settings)
    if existing is not None:
        return existing.job_id
    refuse_over_quota(settings)
    counted = count_jobs(settings)
    waiting = counted.total() - sum(counted[status] for status in ENDED)
    if waiting >= settings.max_queued:
        raise JobError(
            f"{waiting} jobs are waiting or running, the most there may be; wait for some, cancel some with "
            "`vmoer jobs cancel`, or raise VMOER_MAX_QUEUED"
        )
    return enqueue(workflow_input(spec, folders), queue_name(device), settings)


def enqueue(request: dict[str, Any], queue: str, settings: Settings) -> str:
    """The id of a new job in a queue: ``20261123-191500-<experiment>-<random>``, which sorts by time.

    Its time limit counts from when a worker takes it up, and anew when it is resumed.
    """
    options: EnqueueOptions = {
        "queue_name": queue,
        "workflow_name": WORKFLOW,
        "workflow_id": f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{str(request['experiment'])[:8]}-{secrets.token_hex(2)}",
        "app_version": APPLICATION_VERSION,
        "workflow_timeout": settings.max_job_hours * 3600,
    }
    with connect(settings) as client:
        client.enqueue(options, request)
    return options["workflow_id"]


def workflow_input(spec: Spec, folders: Sequence[str]) -> dict[str, Any]:
    """The one argument of the workflow, plain JSON."""
    return {"spec": spec.canonical(), "steps": STEPS, "folders": list(folders), "experiment": spec.experiment}


def list_jobs(settings: Settings | None = None, limit: int = 100) -> list[Job]:
    """The latest jobs, newest first; empty when nothing was ever submitted."""
    settings = settings or load_settings()
    if not exists(settings):
        return []
    with connect(settings) as client:
        rows = client.list_workflows(name=WORKFLOW, limit=limit, sort_desc=True)
        alive, stopped = live_executors(settings.home), stopped_executors(settings.home)
        return [_job(client, row, alive, stopped) for row in rows]


def count_jobs(settings: Settings) -> Counter[str]:
    """How many of the latest thousand jobs there are by status, in one query that reads neither specs nor progress."""
    if not exists(settings):
        return Counter()
    with connect(settings) as client:
        rows = client.list_workflows(name=WORKFLOW, limit=1000, sort_desc=True, load_input=False, load_output=False)
    alive = live_executors(settings.home)
    return Counter(_status(row, alive) for row in rows)


def get_job(job_id: str, settings: Settings | None = None) -> Job:
    """One job; an unknown id is refused with a sentence."""
    settings = settings or load_settings()
    unknown = JobError(f"no job {job_id[:80]!r}; `vmoer jobs list` shows the jobs there are")
    if not exists(settings):
        raise unknown
    with connect(settings) as client:
        rows = client.list_workflows(workflow_ids=[job_id], name=WORKFLOW)
        if not rows:
            raise unknown
        return _job(client, rows[0], live_executors(settings.home), stopped_executors(settings.home))


def job_spec(job_id: str, settings: Settings | None = None) -> dict[str, Any]:
    """The spec a job computes, as plain values; an unknown id is refused with a sentence."""
    settings = settings or load_settings()
    get_job(job_id, settings)
    with connect(settings) as client:
        return dict(_request(client.list_workflows(workflow_ids=[job_id], name=WORKFLOW)[0]).get("spec", {}))


def unfinished(experiment: str, settings: Settings | None = None) -> Job | None:
    """The newest job of an experiment that is queued, running or lost."""
    jobs = [job for job in list_jobs(settings, limit=1000) if job.experiment == experiment and not job.ended]
    return jobs[0] if jobs else None


def cancel(job_id: str, settings: Settings | None = None) -> Job:
    """Stop a job after the step in flight; what is computed stays, and :func:`resume` continues it."""
    settings = settings or load_settings()
    job = get_job(job_id, settings)
    if job.ended:
        raise JobError(f"job {job_id} has already {_ended_how(job)}")
    with connect(settings) as client:
        client.cancel_workflow(job_id)
    return get_job(job_id, settings)


def resume(job_id: str, device: str = ANY_DEVICE, settings: Settings | None = None) -> str:
    """Queue a cancelled, lost or failed job again and return the id to watch (a failed job gets a new one)."""
    settings = settings or load_settings()
    job = get_job(job_id, settings)
    if job.status == "finished":
        raise JobError(f"job {job_id} has already finished; `vmoer run --resume SPEC` re-checks its shards")
    if job.status in ("queued", "running"):
        raise JobError(f"job {job_id} is {job.status}; only a cancelled, lost or failed job can be resumed")
    with connect(settings) as client:
        if job.status != "failed":
            client.resume_workflow(job_id, queue_name=queue_name(device))
            return job_id
        request = _request(client.list_workflows(workflow_ids=[job_id])[0])
    request["steps"] = STEPS  # the new job begins with the steps of today
    return enqueue(request, queue_name(device), settings)


def wait(job_id: str, timeout: float | None = None, settings: Settings | None = None) -> Job:
    """The job once it has ended; after ``timeout`` seconds, or when it is lost, the job as it stands."""
    settings = settings or load_settings()
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        job = get_job(job_id, settings)
        if job.ended or job.lost or (deadline is not None and time.monotonic() > deadline):
            return job
        time.sleep(max(settings.poll_seconds, 0.2))


def log_path(job_id: str, settings: Settings | None = None) -> Path:
    """Where a job's log lies (one JSON object a line)."""
    settings = settings or load_settings()
    if not job_id or not all(char.isalnum() or char == "-" for char in job_id):
        raise JobError(f"{job_id[:80]!r} is no job id; `vmoer jobs list` shows them")
    return contained(settings.home, settings.logs / f"{job_id}.jsonl")


def read_log(job_id: str, settings: Settings | None = None, last: int = 200) -> list[dict[str, Any]]:
    """The last log entries of a job, oldest first; a line cut by a crash is left out."""
    path = log_path(job_id, settings)
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-last:]:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def _job(client: DBOSClient, row: Any, alive: dict[str, str], stopped: dict[str, int]) -> Job:
    request = _request(row)
    progress = client.get_event(row.workflow_id, PROGRESS_EVENT, 0) or {}
    status = _status(row, alive)
    lost = status == "lost"
    message = str(progress.get("message", ""))
    if status == "failed":
        message = str(getattr(row.error, "message", "") or row.error or "the worker died too often on this job")
    elif status == "queued" and not alive:
        message = "waiting for a worker: start one with `vmoer worker` or `vmoer serve`"
    elif status == "running" and row.executor_id in stopped:
        message = stopped_sentence(stopped[row.executor_id])
    elif lost:
        message = "its worker is gone; start `vmoer worker`, or resume it"
    elif status == "cancelled" and _overdue(row):
        message = (
            f"it computed longer than the {row.workflow_timeout_ms / 3.6e6:.3g} hours of VMOER_MAX_JOB_HOURS and was "
            "cancelled; what it stored stays, and `vmoer jobs resume` goes on"
        )
    elif status == "cancelled":
        message = "cancelled on request; `vmoer jobs resume` goes on behind its last finished step"
    running = status == "running"
    return Job(
        job_id=row.workflow_id,
        name=str(request.get("spec", {}).get("name", "")),
        status=status,
        stage=str(progress.get("stage", "")),
        done=int(progress.get("done", 0)),
        total=int(progress.get("total", 0)),
        stage_done=int(progress.get("stage_done", 0)),
        stage_total=int(progress.get("stage_total", 0)),
        rate=progress.get("rate") if running else None,
        eta_seconds=progress.get("eta_seconds") if running else None,
        message=message,
        submitted_at=_time(row.created_at) or datetime.now(UTC),
        started_at=_time(progress.get("started_at_ms")),
        ended_at=_time(row.completed_at or row.updated_at) if status in ENDED else None,
        experiment=str(request.get("experiment", "")),
        run_ids=tuple(progress.get("run_ids", ())),
        lost=lost,
        executor=str(row.executor_id or ""),
    )


def _status(row: Any, alive: dict[str, str]) -> str:
    status = _STATUS.get(row.status, str(row.status).lower())
    return "lost" if status == "running" and row.executor_id not in alive else status


def _overdue(row: Any) -> bool:
    ended = row.completed_at or row.updated_at  # in SQLite cut off to whole seconds
    return bool(row.workflow_deadline_epoch_ms and ended and ended + 1000 > row.workflow_deadline_epoch_ms)


def _request(row: Any) -> dict[str, Any]:
    args: Sequence[Any] = (row.input or {}).get("args") or ({},)
    return args[0] if isinstance(args[0], dict) else {}


def _time(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _ended_how(job: Job) -> str:
    return "been cancelled" if job.status == "cancelled" else job.status
