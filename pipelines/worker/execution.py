"""One execution of an experiment in this process, and its steps, which are recorded in the job database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dbos import DBOS

from pipelines.experiment.batches import Work
from pipelines.jobs.disk import with_room
from pipelines.jobs.log import JobLog
from pipelines.session.session import Session
from pipelines.settings import Settings
from pipelines.worker.priority_lock import Turns
from pipelines.worker.progress import Progress
from pipelines.worker.ray import RayCluster

#: held while a step computes or writes: a polite shutdown waits for the step in flight, an inspection comes before
#: the next one
STEP_LOCK = Turns()


@dataclass(frozen=True)
class Execution:
    """One execution of the workflow in this process."""

    job_id: str
    settings: Settings
    session: Session
    work: Work
    cluster: RayCluster
    progress: Progress
    log: JobLog


def step(job: Execution, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Do ``work(job, *arguments)`` as one recorded step, holding the model; waits while the disk is full."""

    def guarded() -> Any:
        with STEP_LOCK:
            return work(job, *arguments)

    def attempt() -> Any:
        return with_room(guarded, job.job_id, job.settings, job.log.warning)

    return DBOS.run_step({"name": name}, attempt)
