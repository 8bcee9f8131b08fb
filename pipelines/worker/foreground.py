"""Computing a spec in the foreground: here, or by the worker that already holds the device, with a progress bar."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pipelines import console
from pipelines.errors import DeviceBusyError, JobError
from pipelines.jobs import client as jobs
from pipelines.settings import Settings
from pipelines.spec.model import Spec
from pipelines.worker.process import detect_device, is_served, run_foreground


def compute(spec: Spec, folders: Sequence[str], settings: Settings, quiet: bool = False) -> jobs.Job:
    """The ended job of a spec; raises :class:`JobError` when it failed.

    Ctrl-C cancels a job computed here; a job at a worker goes on there.
    """
    device = detect_device(settings.device)
    with console.JobProgress(quiet) as progress:
        if not is_served(settings, device):
            try:
                job = run_foreground(spec, folders, settings, device, progress)
            except DeviceBusyError:  # a worker started in this instant
                job = _follow(spec, folders, settings, device, progress)
        else:
            job = _follow(spec, folders, settings, device, progress)
    if job.status == "failed":
        raise JobError(f"job {job.job_id} failed: {job.message}")
    return job


def _follow(
    spec: Spec, folders: Sequence[str], settings: Settings, device: str, progress: console.JobProgress
) -> jobs.Job:
    """Give the job to the worker of a device and show its progress until it ends."""
    job_id = jobs.submit(spec, folders=folders, device=device, settings=settings)
    console.say(f"a worker holds {device}; it computes this as job {job_id} (Ctrl-C stops watching, not the job)")
    while True:
        job = jobs.get_job(job_id, settings)
        progress(job_id, job.progress())
        if job.ended or job.lost:
            return job
        time.sleep(0.3)
