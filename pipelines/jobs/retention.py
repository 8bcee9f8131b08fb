"""Removing runs that nobody is computing."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.errors import PipelineError
from pipelines.jobs import client as jobs
from pipelines.settings import Settings
from store.retention import Removed, remove_runs


def remove(run_ids: Sequence[str], settings: Settings) -> Removed:
    """Remove runs; one that an unfinished job is computing, or will, is refused by name."""
    for job in jobs.list_jobs(settings, limit=1000):
        busy = sorted(set(run_ids) & set(job.run_ids)) if not job.ended else []
        if busy:
            raise PipelineError(
                f"run {busy[0]} belongs to job {job.job_id}, which is {job.status}; "
                f"`vmoer jobs cancel {job.job_id}` first"
            )
    return remove_runs(settings.home, run_ids)
