"""Print ``docs/cli.md``, made from the commands, the settings and the spec."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from pipelines.cli import app as cli
from pipelines.settings import FIELDS, variables
from pipelines.spec import sections
from pipelines.spec.model import Spec

_MODELS = (
    Spec,
    sections.Data,
    sections.DataSource,
    sections.Routers,
    sections.Training,
    sections.MapRouters,
    sections.Adapter,
    sections.FineTuning,
    sections.Noise,
    sections.Leverage,
)


def markdown() -> str:
    """The whole page."""
    return "\n".join([*_head(), *_commands(), *_spec(), *_settings()]) + "\n"


def _head() -> Iterator[str]:
    yield "# Command line"
    yield ""
    yield "Made by `python -m pipelines.cli.reference`; a test keeps it in step with the code."
    yield ""
    yield " ".join((cli.__doc__ or "").split("\n\n")[1].split())


def _commands() -> Iterator[str]:
    yield from ("", "## Commands")
    for name, command in leaves(cli.command_tree(), "vmoer"):
        yield from ("", f"### `{name}`", "", inspect.cleandoc(command.help or ""))
        rows = list(_parameters(command))
        if rows:
            yield from ("", "| | default | |", "| --- | --- | --- |", *rows)


def leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its full name."""
    children: dict[str, Any] = getattr(command, "commands", {})
    if not children or (command.invoke_without_command and " " in path):
        yield path, command
    for name in sorted(children):
        yield from leaves(children[name], f"{path} {name}")


def _parameters(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.name == "help":
            continue
        argument = parameter.param_type_name == "argument"
        shown = (
            (parameter.name or "").upper().rstrip("_")
            if argument
            else ", ".join(parameter.opts + parameter.secondary_opts)
        )
        default = "" if parameter.default in (None, False, "") or parameter.required else f"`{parameter.default}`"
        default = "required" if parameter.required else default
        yield f"| `{shown}` | {default} | {parameter.help or ''} |"


def _spec() -> Iterator[str]:
    yield from (
        "",
        "## Spec",
        "",
        "Unknown keys, duplicate keys, aliases and tags are refused, with the key's full path.",
    )
    for model in _MODELS:
        yield from ("", f"### {model.__name__}", "", inspect.cleandoc(model.__doc__ or ""), "")
        yield from ("| key | default | |", "| --- | --- | --- |")
        for name, field in model.model_fields.items():
            key = field.alias or name
            yield f"| `{key}` | {_default(field)} | {field.description} |"


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        return "see below" if not isinstance(value, sections.Routers) else "`shipped`"
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _settings() -> Iterator[str]:
    yield from ("", "## Settings", "", "Read from the environment.", "")
    yield from ("| variable | default | |", "| --- | --- | --- |")
    names = variables()
    for name, field in FIELDS.items():
        yield f"| `{names[name]}` | `{field.default}` | {field.description} |"


if __name__ == "__main__":
    print(markdown(), end="")
