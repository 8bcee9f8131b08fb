"""The commands `vmoer models`: list the models that come with VMoER, and build one."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn

from pipelines.cli.root import Json, Typer
from pipelines.console import clean, print_json, print_rows, say
from vmoer.errors import UnknownNameError
from vmoer.models.catalog import ModelInfo, available_models, load_model
from vmoer.registry import unknown_name

app = Typer(help="Bundled models: list them, or fetch and build one.", no_args_is_help=True)


@app.command("list")
def models_list(json_: Json = False) -> None:
    """The models that come with VMoER and where they are."""
    print_rows(model_rows(), json_, "no models")


@app.command("get")
def models_get(
    name: Annotated[str, typer.Argument(help="A name from `vmoer models list`.")], json_: Json = False
) -> None:
    """Fetch and build a model once; the path it was saved to is printed."""
    row = get_model(name, quiet=json_)
    if json_:
        print_json(row)
    else:
        print(clean(row["path"]))


def model_rows() -> list[dict[str, Any]]:
    """One row per model known by name."""
    return [_row(info) for info in available_models()]


def get_model(name: str, quiet: bool = False) -> dict[str, Any]:
    """The row of a model that is present now; it is built first if it was not (minutes, with a progress bar)."""
    info = _info(name)
    if not info.present:
        bars = Progress(TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), disable=quiet)
        with bars:
            task = bars.add_task(name, total=None)
            shown = ""

            def progress(*state: Any) -> None:
                nonlocal shown
                text = clean(" ".join(str(part) for part in state if isinstance(part, str))) or name
                numbers = [part for part in state if isinstance(part, int | float)]
                done, total = (numbers[0], numbers[1]) if len(numbers) > 1 else (None, None)
                bars.update(task, description=text, completed=done, total=total)
                if text != shown and not quiet and not sys.stderr.isatty():
                    say(text)
                shown = text

            load_model(name, build=True, progress=progress)
    return _row(_info(name))


def _info(name: str) -> ModelInfo:
    known = {info.name: info for info in available_models()}
    if name not in known:
        raise UnknownNameError(unknown_name("model", name, sorted(known)))
    return known[name]


def _row(info: ModelInfo) -> dict[str, Any]:
    return {
        "model": info.name,
        "kind": info.kind,
        "present": info.present,
        "megabytes": round(info.megabytes, 1),
        "synthetic": info.synthetic,
        "path": str(info.folder),
        "description": info.description,
    }
