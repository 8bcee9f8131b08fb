"""Commands that compute: a spec, routers, one prompt; and the jobs they become."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipelines import console, jobs
from pipelines.commands.root import Device, Engine, JobId, Json, SpecFile, app, jobs_app
from pipelines.errors import PipelineError
from pipelines.settings import load_settings


@app.command("run")
def run_spec(
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
    from pipelines.manifests import recheck
    from pipelines.spec import load_spec, places

    settings = replace(load_settings(), device=device, engine=engine)
    spec = load_spec(spec_file, settings)
    if resume:
        for sentence in recheck(settings.home, spec):
            console.say(sentence)
    if background:
        job = jobs.get_job(jobs.submit(spec, folders=places(spec_file), device=device, settings=settings), settings)
    else:
        from pipelines.foreground import compute

        job = compute(spec, places(spec_file), settings, quiet=json_)
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


@app.command()
def train(
    spec_file: SpecFile,
    output: Annotated[Path, typer.Option(help="Folder for the checkpoints: adapter, map, and one folder per method.")],
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 for half the size.")] = "float32",
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Train what a spec describes (`train:` in adapter, map_routers or routers) and write safetensors checkpoints."""
    from pipelines.preparation.command import train_all
    from pipelines.spec import load_spec, places

    settings = replace(load_settings(), device=device)
    if dtype not in ("float32", "bfloat16"):
        raise PipelineError(f"--dtype {dtype!r}: give float32 or bfloat16")
    rows = train_all(load_spec(spec_file, settings), places(spec_file), settings, output, dtype, quiet=json_)
    console.print_rows(rows, json_, "nothing to train")


@app.command()
def inspect(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "worldfacts-moe",
    method: Annotated[str, typer.Option(help="Routing method; the deterministic model is shown beside it.")] = "",
    routers: Annotated[
        str, typer.Option(help="shipped (fresh heads where there are none), untrained, or a folder.")
    ] = "shipped",
    layers: Annotated[str, typer.Option(help="all, last:n or indices such as 3,4; left out: the routers' own.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="Routing samples.")] = 35,
    new_tokens: Annotated[int, typer.Option(min=0, help="Tokens to generate.")] = 0,
    show: Annotated[str, typer.Option(help="routing, next (the next-token distribution), or why.")] = "routing",
    quantity: Annotated[
        str, typer.Option(help="What `why` explains: logit_variance, routing_entropy or expert_logit.")
    ] = "logit_variance",
    at_layer: Annotated[int, typer.Option(min=0, help="Layer of `why`.")] = 0,
    position: Annotated[int, typer.Option(min=0, help="Token of `why`, counted from 0.")] = 0,
    algorithm: Annotated[str, typer.Option(help="ablation, or shapley, which adds up.")] = "ablation",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the routing samples.")] = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Print how each token of a prompt is routed, what follows it, or which tokens make it uncertain."""
    from pipelines.inspectcli import rows_of

    values = {"model": model, "prompts": [text], "samples": samples, "new_tokens": new_tokens, "seed": seed}
    why = {"layer": at_layer, "position": position, "quantity": quantity, "algorithm": algorithm}
    settings = replace(load_settings(), device=device)
    rows = rows_of(values, why, method, routers, layers, show, settings, quiet=json_)
    console.print_rows(rows, json_, "the prompt has no tokens")


@jobs_app.callback(invoke_without_command=True)
def jobs_(context: typer.Context, json_: Json = False) -> None:
    """The latest jobs, newest first, with status, progress and the last message; `cancel`, `resume` or read `logs`."""
    if context.invoked_subcommand is None:
        jobs_list(json_)


@jobs_app.command("list")
def jobs_list(json_: Json = False) -> None:
    """The same as `vmoer jobs` alone."""
    rows = [job.to_json() for job in jobs.list_jobs()]
    if not json_:
        shown = ("job_id", "name", "status", "stage", "done", "total", "eta_seconds", "message")
        rows = [{key: row[key] for key in shown} for row in rows]
    console.print_rows(rows, json_, "no jobs yet")


@jobs_app.command("cancel")
def jobs_cancel(job_id: JobId, json_: Json = False) -> None:
    """Stop a job after the step in flight; what is computed stays."""
    _show_job(jobs.cancel(job_id), json_)


@jobs_app.command("resume")
def jobs_resume(job_id: JobId, device: Device = "auto", json_: Json = False) -> None:
    """Queue a cancelled, lost or failed job again."""
    _show_job(jobs.get_job(jobs.resume(job_id, device)), json_)


@jobs_app.command("logs")
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


def _job_code(job: jobs.Job) -> int:
    return 3 if job.status in ("failed", "cancelled", "lost") else 0
