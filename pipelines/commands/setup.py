"""Commands about models, question sets and this installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines import console
from pipelines.commands.root import Json, app, models_app
from pipelines.settings import load_settings


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
