"""The batches of an experiment on Ray's actors, in two waves: those that need no other batch, then those that do."""

from __future__ import annotations

import time
from typing import Any

from dbos import DBOS
from dbos._error import DBOSWorkflowCancelledError, DBOSWorkflowConflictIDError

from pipelines.experiment.batches import Batches
from pipelines.jobs.client import get_job
from pipelines.jobs.disk import with_room
from pipelines.spec.runs import RunPlan
from pipelines.worker.execution import Execution
from pipelines.worker.ray import Tasks, batch_tasks

_WATCH_SECONDS = 2.0


def compute_on_ray(job: Execution, runs: list[RunPlan], batches: Batches) -> None:
    """Compute every batch of every run on Ray's actors, in two waves: what depends on nothing, then what reads that."""
    assert job.session.layers is not None
    for wave in ("batches", "batches that read shards"):
        tasks = batch_tasks(runs, batches, job.session.layers, after_others=wave != "batches")
        if not tasks:
            continue
        units = sum(task["batch"]["units"] for task in tasks.values())
        job.progress.enter(units)
        before = job.progress.state["done"]
        # without the lock: actors are ended in the middle of a batch as they are, its shards come whole or not
        DBOS.run_step({"name": wave}, _wave, job, wave, tasks)
        job.progress.settle(before + units - job.progress.state["done"])  # also when replayed


def _wave(job: Execution, name: str, tasks: Tasks) -> None:
    """Compute ``tasks``; those that are left when a disk was full are given to new actors once there is room."""

    def attempt() -> None:
        job.progress.say(name, f"starting on {job.cluster.start()} actors")
        try:
            _follow(job, name, tasks)
        except Exception:
            job.cluster.close()
            raise

    with_room(attempt, job.job_id, job.settings, job.log.warning, left=lambda: len(tasks))


def _follow(job: Execution, name: str, tasks: Tasks) -> None:
    """Compute ``tasks`` and take out each that is done."""
    looked = time.monotonic()
    for answer in job.cluster.map(list(tasks.values())):
        tell(job, answer)
        done = (answer["run_id"], f"{answer['stage']}/{answer['batch']['key']}")
        job.work.checked.add(done)
        del tasks[done]
        job.log.info(
            "batch",
            run_id=answer["run_id"],
            stage=answer["stage"],
            batch=answer["batch"]["key"],
            computed=answer["computed"],
            seconds=answer["seconds"],
            cpu_seconds=answer["cpu_seconds"],
            actor=answer["pid"],
        )
        units = answer["batch"]["units"]
        job.progress.advance(units if answer["computed"] else 0, units)
        job.progress.settle(units)
        job.progress.say(name, f"on {job.cluster.start()} actors")
        if time.monotonic() - looked > _WATCH_SECONDS:
            looked = time.monotonic()
            _check_ownership(job)


def _check_ownership(job: Execution) -> None:
    """End a wave, unrecorded, when its job was cancelled or went to another process."""
    now = get_job(job.job_id, job.settings)
    if now.status == "cancelled":
        raise DBOSWorkflowCancelledError(f"job {job.job_id} was cancelled")
    if now.executor != DBOS.executor_id:
        raise DBOSWorkflowConflictIDError(job.job_id)


def tell(job: Execution, answer: dict[str, Any]) -> None:
    """Write an actor's notes into the job's log."""
    for note in answer["notes"]:
        (job.log.warning if note.pop("mended") else job.log.info)(**note)
