"""Classes of commands, and the options that several commands share."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup


class _Once:
    """Refuse an option that is given again where one value would silently win."""

    def parse_args(self, context: Any, args: list[str]) -> Any:
        """Parse the arguments; options that take several values add up."""
        command: Any = self
        given = Counter(command.make_parser(context).parse_args(args=list(args))[2])
        for parameter, times in given.items():
            plain = getattr(parameter, "is_flag", False) and not parameter.secondary_opts  # means the same each time
            if times > 1 and not (parameter.multiple or parameter.is_eager or plain):
                option = next(name for name in parameter.opts if name.startswith("--"))
                context.fail(f"{option} can be given once, not {times} times")
        return super().parse_args(context, args)  # type: ignore[misc]  # of the class it is mixed into


class OnceCommand(_Once, TyperCommand):
    """A command whose options are given once."""


class OnceGroup(_Once, TyperGroup):
    """A group whose options are given once."""


class Typer(typer.Typer):
    """Commands and groups whose options are given once."""

    def __init__(self, group: type[OnceGroup] = OnceGroup, **options: Any) -> None:
        super().__init__(cls=group, add_completion=False, rich_markup_mode=None, **options)

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Register a command."""
        return super().command(name, cls=OnceCommand, **options)


Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise typer.BadParameter(f"{value[:40]!r} is no device; give auto, cpu, mps, cuda or cuda:N")
    return value


def names(values: list[str] | None) -> list[str]:
    """Split the values of an option of several names at their commas."""
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
