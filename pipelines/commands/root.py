"""The root of the command line and the options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="vmoer",
    help="See, measure and fix the routing uncertainty of Mixture-of-Experts language models.",
    epilog=(
        "Exit codes: 0 done · 1 problems found (`verify`, `doctor`, a goal missed in `bench`) · 2 bad input or a "
        "missing thing, named in one sentence · 3 a job failed or was cancelled · 130 interrupted with Ctrl-C."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="Bundled models: list them, or fetch and build one.", no_args_is_help=True)
jobs_app = typer.Typer()
runs_app = typer.Typer()
app.add_typer(runs_app, name="runs")
app.add_typer(models_app, name="models")
app.add_typer(jobs_app, name="jobs")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise typer.BadParameter(f"{value[:40]!r} is no device; give auto, cpu, mps, cuda or cuda:N")
    return value


Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.", envvar="VMOER_DEVICE", callback=_device)]
Engine = Annotated[str, typer.Option(help="local, or ray for an actor per GPU or processor.", envvar="VMOER_ENGINE")]
SpecFile = Annotated[Path, typer.Argument(help="YAML file that describes the experiment.")]
RunId = Annotated[str, typer.Argument(help="Run id, as `vmoer runs` shows it.")]
JobId = Annotated[str, typer.Argument(help="Job id, as `vmoer jobs list` shows it.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port of the dashboard.", envvar="VMOER_PORT")]
Address = Annotated[str, typer.Option(help="Address the dashboard binds to.", envvar="VMOER_ADDRESS")]
MetricsPort = Annotated[int, typer.Option(min=0, max=65535, help="Loopback port of /metrics and /healthz; 0 is none.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow an address that other machines can reach.")]
