"""The commands `vmoer jobs`: list, cancel and resume jobs, and read their logs."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines import console
from pipelines.cli.root import Device, JobId, Json, Typer
from pipelines.jobs import client as jobs

app = Typer()


@app.callback(invoke_without_command=True)
def jobs_(context: typer.Context, json_: Json = False) -> None:
    """The latest jobs, newest first, with status, progress and the last message; `cancel`, `resume` or read `logs`."""
    if context.invoked_subcommand is None:
        jobs_list(json_)


@app.command("list")
def jobs_list(json_: Json = False) -> None:
    """The same as `vmoer jobs` alone."""
    rows = [job.to_json() for job in jobs.list_jobs()]
    if not json_:
        shown = ("job_id", "name", "status", "stage", "done", "total", "eta_seconds", "message")
        rows = [{key: row[key] for key in shown} for row in rows]
    console.print_rows(rows, json_, "no jobs yet")


@app.command("cancel")
def jobs_cancel(job_id: JobId, json_: Json = False) -> None:
    """Stop a job after the step in flight; what is computed stays."""
    _show_job(jobs.cancel(job_id), json_)


@app.command("resume")
def jobs_resume(job_id: JobId, device: Device = "auto", json_: Json = False) -> None:
    """Queue a cancelled, lost or failed job again."""
    _show_job(jobs.get_job(jobs.resume(job_id, device)), json_)


@app.command("logs")
def jobs_logs(
    job_id: JobId,
    last: Annotated[int, typer.Option(min=1, help="How many entries.")] = 50,
    json_: Json = False,
) -> None:
    """The last entries of a job's log."""
    jobs.get_job(job_id)
    entries = jobs.read_log(job_id, last=last)
    if json_:
        console.print_json(entries)
    for entry in [] if json_ else entries:
        extra = {key: value for key, value in entry.items() if key not in ("timestamp", "level", "event", "job_id")}
        print(console.clean(f"{entry.get('timestamp')} {entry.get('level')} {entry.get('event')} {extra or ''}"))


def _show_job(job: jobs.Job, as_json: bool) -> None:
    if as_json:
        console.print_json(job.to_json())
    else:
        print(console.clean(f"{job.job_id} {job.status}"))
