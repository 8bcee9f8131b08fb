"""The root of the command line and the options that several commands share."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup


class _Once:
    """Refuses an option that is given again where one value would silently win; those of several values add up."""

    def parse_args(self, context: Any, args: list[str]) -> Any:
        """Arguments as the command takes them."""
        command: Any = self
        given = Counter(command.make_parser(context).parse_args(args=list(args))[2])
        for parameter, times in given.items():
            plain = getattr(parameter, "is_flag", False) and not parameter.secondary_opts  # means the same each time
            if times > 1 and not (parameter.multiple or parameter.is_eager or plain):
                option = next(name for name in parameter.opts if name.startswith("--"))
                context.fail(f"{option} can be given once, not {times} times")
        return super().parse_args(context, args)  # type: ignore[misc]  # of the class it is mixed into


class _Command(_Once, TyperCommand):
    pass


class _Group(_Once, TyperGroup):
    pass


class _Typer(typer.Typer):
    """Commands and groups whose options are given once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=_Group, **options)

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Register a command."""
        return super().command(name, cls=_Command, **options)


app = _Typer(
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
models_app = _Typer(help="Bundled models: list them, or fetch and build one.", no_args_is_help=True)
jobs_app = _Typer()
runs_app = _Typer()
app.add_typer(runs_app, name="runs")
app.add_typer(models_app, name="models")
app.add_typer(jobs_app, name="jobs")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise typer.BadParameter(f"{value[:40]!r} is no device; give auto, cpu, mps, cuda or cuda:N")
    return value


def names(values: list[str] | None) -> list[str]:
    """What an option of several names was given: separated by commas, or the option again."""
    return [name.strip() for value in values or [] for name in value.split(",") if name.strip()]


Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.", envvar="VMOER_DEVICE", callback=_device)]
Engine = Annotated[str, typer.Option(help="local, or ray for an actor per GPU or processor.", envvar="VMOER_ENGINE")]
SpecFile = Annotated[Path, typer.Argument(help="YAML file that describes the experiment.")]
RunId = Annotated[str, typer.Argument(help="Run id, as `vmoer runs` shows it.")]
JobId = Annotated[str, typer.Argument(help="Job id, as `vmoer jobs list` shows it.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port of the dashboard.", envvar="VMOER_PORT")]
Address = Annotated[str, typer.Option(help="Address the dashboard binds to.", envvar="VMOER_ADDRESS")]
MetricsPort = Annotated[int, typer.Option(min=0, max=65535, help="Loopback port of /metrics and /healthz; 0 is none.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow an address that other machines can reach.")]
