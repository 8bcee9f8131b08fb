"""The commands `vmoer runs`: list runs and remove them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pipelines import console
from pipelines.cli.listing import run_rows
from pipelines.cli.root import Json, Typer
from pipelines.jobs.disk import size
from pipelines.jobs.retention import remove
from pipelines.settings import load_settings

app = Typer()


@app.callback(invoke_without_command=True)
def runs(context: typer.Context, json_: Json = False) -> None:
    """Every run in the data folder with its method, data sets, status and size; `rm` removes some."""
    if context.invoked_subcommand is None:
        runs_list(json_)


@app.command("list")
def runs_list(json_: Json = False) -> None:
    """The same as `vmoer runs` alone."""
    rows = run_rows(load_settings().home)
    if not json_:
        shown = ("run_id", "status", "learned", "datasets", "started_at")
        rows = [{key: row[key] for key in shown} | {"size": size(row["bytes"])} for row in rows]
    console.print_rows(rows, json_, "no runs yet; `vmoer demo` or `vmoer run SPEC` makes some")


@app.command("rm")
def runs_rm(
    run_ids: Annotated[list[str], typer.Argument(help="Run ids, as `vmoer runs` shows them.")],
    json_: Json = False,
) -> None:
    """Remove runs with everything they stored; open pages keep them for a while, then `compact` frees the rest."""
    removed = remove(run_ids, load_settings())
    if json_:
        console.print_json(asdict(removed))
    else:
        later = f"; `vmoer compact` frees {size(removed.bytes_later)} in ten minutes" if removed.bytes_later else ""
        console.say(f"removed {removed.runs} runs, freed {size(removed.bytes_freed)}{later}")
