"""The command `vmoer run`."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Annotated

import typer

from pipelines import console
from pipelines.cli.root import Device, Engine, Json, SpecFile
from pipelines.data.questions import said_of_files
from pipelines.jobs import client as jobs
from pipelines.settings import load_settings
from pipelines.spec.model import load_spec, places


def run(
    spec_file: SpecFile,
    background: Annotated[bool, typer.Option("--background", help="Queue it for a worker and return.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Also check the shards of finished runs and compute damaged ones again.")
    ] = False,
    device: Device = "auto",
    engine: Engine = "local",
    json_: Json = False,
) -> None:
    """Compute an experiment; what an earlier attempt finished is used, Ctrl-C keeps what is computed."""
    settings = replace(load_settings(), device=device, engine=engine)
    spec = load_spec(spec_file, settings)
    for sentence in [] if json_ else said_of_files(spec, places(spec_file), settings):
        console.say(sentence)
    # a spec that is only queued needs no torch, so what computes is imported where it is needed
    if resume:
        for sentence in import_module("pipelines.experiment.manifests").recheck(settings.home, spec):
            console.say(sentence)
    if background:
        job = jobs.get_job(jobs.submit(spec, folders=places(spec_file), device=device, settings=settings), settings)
    else:
        job = import_module("pipelines.worker.foreground").compute(spec, places(spec_file), settings, quiet=json_)
    if json_:
        console.print_json(job.to_json())
    elif background:
        console.say(f"queued as job {job.job_id}; {job.message or '`vmoer jobs list` shows its progress'}")
    else:
        if job.status != "finished":
            console.say(f"job {job.job_id} is {job.status}: {job.message}")
        for run_id in job.run_ids:
            print(console.clean(run_id))
    raise typer.Exit(_job_code(job))


def _job_code(job: jobs.Job) -> int:
    return 3 if job.status in ("failed", "cancelled", "lost") else 0
