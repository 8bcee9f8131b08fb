"""Commands about models, question sets and this installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines import console
from pipelines.commands.root import Device, Json, app, models_app
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


@app.command("noise-floor")
def noise_floor(
    model: Annotated[str, typer.Argument(help="A model's name, a folder or a hub id.")],
    prompts: Annotated[
        str | None, typer.Option(help="File of prompts or question set; the built-in questions if left out.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Prompts to measure on.")] = 64,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """How often bfloat16, or another expert kernel, changes the experts that float32 picks, per layer.

    An instability no larger than this says nothing about the router. The model is copied once in float32.
    """
    from pipelines.noise_floor import noise_floor_rows

    console.print_rows(noise_floor_rows(model, prompts, limit, device), json_, "no MoE layers")


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
def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A model to look at: a name, a folder, a config.json or a hub id.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check the installation, the data folder and the jobs; exit code 1 when something needs attention.

    With MODEL: what VMoER can do with it, from its configuration alone, whatever its size: family, layers, experts,
    routing rule, memory, and what each method adds to the operations per token (35 samples; in 10 layers, in all).
    """
    from pipelines.doctor import findings, model_lines, model_report

    if model is not None:
        found = model_report(model)
        if json_:
            console.print_json(found)
        else:
            print("\n".join(model_lines(found)))
        return
    rows = findings(load_settings())
    console.print_rows(rows, json_, "nothing to check")
    raise typer.Exit(0 if all(row["ok"] for row in rows) else 1)
