"""The command ``vmoer``.

Exit codes: 0 done · 1 problems found (``verify``, ``doctor``, a goal missed in ``bench``) · 2 bad input or a missing
thing, named in one sentence · 3 a job failed or was cancelled · 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines import console, jobs
from pipelines.errors import JobError, PipelineError
from pipelines.settings import load_settings

app = typer.Typer(
    name="vmoer",
    help="See, measure and fix the routing uncertainty of Mixture-of-Experts language models.",
    epilog=__doc__.split("\n\n")[1].replace("\n", " ") if __doc__ else None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="Bundled models: list them, or fetch and build one.", no_args_is_help=True)
jobs_app = typer.Typer(help="Jobs: list, cancel, resume, read the log.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(jobs_app, name="jobs")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.", envvar="VMOER_DEVICE")]
SpecFile = Annotated[Path, typer.Argument(help="YAML file that describes the experiment.")]
RunId = Annotated[str, typer.Argument(help="Run id, as `vmoer runs` shows it.")]
JobId = Annotated[str, typer.Argument(help="Job id, as `vmoer jobs list` shows it.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port of the dashboard.", envvar="VMOER_PORT")]
Address = Annotated[str, typer.Option(help="Address the dashboard binds to.", envvar="VMOER_ADDRESS")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow an address that other machines can reach.")]


def main() -> None:
    """Entry point: runs a command and turns every known error into one sentence and an exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of ``vmoer`` with these arguments."""
    from store.errors import StoreError
    from vmoer.errors import VmoerError

    try:
        code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except _usage_error() as error:
        console.say(f"vmoer: {error}; see `vmoer --help`")
        return 2
    except (PipelineError, StoreError, VmoerError) as error:
        console.say(f"vmoer: {error}")
        return 3 if isinstance(error, JobError) and "failed" in str(error) else 2
    except (KeyboardInterrupt, typer.Abort):
        console.say("vmoer: interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if os.environ.get("VMOER_DEBUG"):
            raise
        console.say(f"vmoer: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return 2


@app.command()
def demo(
    serve: Annotated[bool, typer.Option(help="Show the dashboard; --no-serve does everything here and exits.")] = True,
    port: Port = 8501,
    json_: Json = False,
) -> None:
    """Evaluate the two bundled models and show the results; a second start reuses what is finished."""
    from pipelines.demo import run_demo

    raise typer.Exit(run_demo(load_settings(), serve_pages=serve, port=port, as_json=json_))


@app.command()
def serve(
    port: Port = 8501,
    address: Address = "127.0.0.1",
    device: Device = "auto",
    worker_: Annotated[bool, typer.Option("--worker/--no-worker", help="Also start a worker for jobs.")] = True,
    insecure: Insecure = False,
) -> None:
    """Show the dashboard, with a worker beside it, until Ctrl-C."""
    from pipelines import serve as server

    settings = load_settings()
    server.check_address(address, port, insecure)
    server.end_on_sigterm()
    worker_process = server.start_worker(settings, device) if worker_ else None
    processes = [worker_process] if worker_process else []
    try:
        processes.append(server.start_dashboard(settings, address, port))
        console.say(f"dashboard on http://{address}:{port} (Ctrl-C stops it)")
        code = server.wait(processes, console.say)
    finally:
        server.stop(processes)
    raise typer.Exit(code)


@app.command()
def worker(device: Device = "auto") -> None:
    """Compute queued jobs on one device until it is told to stop."""
    from pipelines.worker import run_worker

    run_worker(replace(load_settings(), device=device), device, console.say)


@app.command("run")
def run_spec(
    spec_file: SpecFile,
    background: Annotated[bool, typer.Option("--background", help="Queue it for a worker and return.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Also check the shards of finished runs and compute damaged ones again.")
    ] = False,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Compute an experiment; what an earlier attempt finished is used, Ctrl-C keeps what is computed."""
    from pipelines.manifests import recheck
    from pipelines.spec import load_spec, places

    settings = replace(load_settings(), device=device)
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
        for run_id in job.run_ids:
            print(console.clean(run_id))
    raise typer.Exit(_job_code(job))


@app.command()
def train(
    spec_file: SpecFile,
    output: Annotated[Path, typer.Option(help="Folder for the checkpoints, one folder per method.")],
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 for half the size.")] = "float32",
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Train the routers a spec describes (`routers: {train: …}`) and write safetensors checkpoints."""
    from pipelines.spec import load_spec, places
    from pipelines.train import train_routers

    settings = replace(load_settings(), device=device)
    if dtype not in ("float32", "bfloat16"):
        raise PipelineError(f"--dtype {dtype!r}: give float32 or bfloat16")
    rows = train_routers(load_spec(spec_file, settings), places(spec_file), settings, output, dtype, quiet=json_)
    console.print_rows(rows, json_, "the spec has no method with parameters to train")


@app.command()
def inspect(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "worldfacts-moe",
    routers: Annotated[str, typer.Option(help="Folder with trained routers; none routes natively.")] = "",
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Print how each token of a prompt is routed: experts and gate weights per layer."""
    from pipelines.inspection import routing_rows

    settings = replace(load_settings(), device=device)
    console.print_rows(routing_rows(text, model, routers, settings), json_, "the prompt has no tokens")


@models_app.command("list")
def models_list(json_: Json = False) -> None:
    """The models that come with VMoER and where they are."""
    from pipelines.bundled import model_rows

    console.print_rows(model_rows(), json_, "no models")


@models_app.command("get")
def models_get(
    name: Annotated[str, typer.Argument(help="A name from `vmoer models list`.")], json_: Json = False
) -> None:
    """Fetch and build a model once; the path it was saved to is printed."""
    from pipelines.bundled import get_model

    row = get_model(name, quiet=json_)
    if json_:
        console.print_json(row)
    else:
        print(console.clean(row["path"]))


@app.command()
def datasets(
    path: Annotated[
        Path | None, typer.Argument(help="Parquet file or folder to check; all built-in sets if left out.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check question sets: the built-in splits, or a Parquet file or folder of your own."""
    from pipelines.catalog import question_set_rows

    console.print_rows(question_set_rows(path), json_, "no question sets")


@app.command()
def runs(json_: Json = False) -> None:
    """Every run in the data folder with its method, data sets and status."""
    from pipelines.catalog import run_rows

    rows = run_rows(load_settings().home)
    if not json_:
        rows = [{key: row[key] for key in ("run_id", "status", "datasets", "started_at")} for row in rows]
    console.print_rows(rows, json_, "no runs yet; `vmoer demo` or `vmoer run SPEC` makes some")


@jobs_app.command("list")
def jobs_list(json_: Json = False) -> None:
    """The latest jobs, newest first, with status, progress and the last message."""
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


@app.command()
def export(
    run_id: RunId,
    table: Annotated[str, typer.Argument(help="A table, e.g. predictions, metrics, routing.")],
    output: Annotated[Path, typer.Option(help="File to write.")],
    format_: Annotated[str, typer.Option("--format", help="csv, parquet, json, latex or duckdb.")] = "csv",
    json_: Json = False,
) -> None:
    """Write one table of a run to a file, with its reproducibility card."""
    from store.export import export_table
    from store.reader import open_store

    with open_store(load_settings().home) as store:
        export_table(store, run_id, table, format_, output)
    if json_:
        console.print_json({"run_id": run_id, "table": table, "format": format_, "output": str(output)})


@app.command()
def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Remove leftovers and publish again where needed.")] = False,
    json_: Json = False,
) -> None:
    """Check hashes, row counts and keys of everything stored; exit code 1 when something is wrong."""
    from store.verify import verify as check

    problems = check(load_settings().home, repair=repair)
    if json_:
        console.print_json([asdict(problem) for problem in problems])
    else:
        for problem in problems:
            print(console.clean(problem.sentence))
        console.say("clean" if not problems else f"{len(problems)} problems")
    raise typer.Exit(1 if problems else 0)


@app.command()
def compact(json_: Json = False) -> None:
    """Merge small shards, remove shards of deleted runs and old generations; readers are not disturbed."""
    from store.compact import compact as merge

    console.print_rows([asdict(merge(load_settings().home))], json_, "nothing to do")


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="router, record, publish, query or all.")] = "all",
    json_: Json = False,
) -> None:
    """Measure ratios and times on this machine, each beside its goal; exit code 1 when a goal is missed."""
    from pipelines.bench import run_benchmarks

    rows = run_benchmarks(name)
    console.print_rows(rows, json_, "no benchmarks")
    raise typer.Exit(0 if all(row["met"] for row in rows) else 1)


@app.command()
def doctor(json_: Json = False) -> None:
    """Check the installation, the data folder and the jobs; exit code 1 when something needs attention."""
    from pipelines.doctor import findings

    rows = findings(load_settings())
    console.print_rows(rows, json_, "nothing to check")
    raise typer.Exit(0 if all(row["ok"] for row in rows) else 1)


def _show_job(job: jobs.Job, as_json: bool) -> None:
    if as_json:
        console.print_json(job.to_json())
    else:
        print(console.clean(f"{job.job_id} {job.status}"))


def _job_code(job: jobs.Job) -> int:
    return 3 if job.status in ("failed", "cancelled", "lost") else 0


def _usage_error() -> type[Exception]:
    """The base of every error about the arguments themselves (typer carries its own copy of click)."""
    return next(base for base in reversed(typer.BadParameter.__mro__) if base.__name__ == "ClickException")


def command_tree() -> Any:
    """The click command behind the app, for the generated documentation."""
    return typer.main.get_command(app)
