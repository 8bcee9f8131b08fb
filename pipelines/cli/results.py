"""The commands `vmoer export` and `vmoer compact`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import store.compact
from pipelines import console
from pipelines.cli.root import Json, RunId
from pipelines.settings import load_settings
from store.export import export_table
from store.reader import open_store


def export(
    run_id: RunId,
    table: Annotated[str, typer.Argument(help="A table, e.g. predictions, metrics, routing.")],
    output: Annotated[Path, typer.Option(help="File to write.")],
    format_: Annotated[str, typer.Option("--format", help="csv, parquet, json, latex or duckdb.")] = "csv",
    json_: Json = False,
) -> None:
    """Write one table of a run to a file, with its reproducibility card."""
    with open_store(load_settings().home) as results:
        export_table(results, run_id, table, format_, output)
    if json_:
        console.print_json({"run_id": run_id, "table": table, "format": format_, "output": str(output)})


def compact(json_: Json = False) -> None:
    """Merge small shards, remove shards of deleted runs and old generations; readers are not disturbed."""
    console.print_rows([asdict(store.compact.compact(load_settings().home))], json_, "nothing to do")
