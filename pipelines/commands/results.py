"""Commands about what is stored: runs, exports, checks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines import console
from pipelines.commands.root import Json, RunId, app, runs_app
from pipelines.room import size
from pipelines.settings import load_settings


@runs_app.callback(invoke_without_command=True)
def runs(context: typer.Context, json_: Json = False) -> None:
    """Every run in the data folder with its method, data sets, status and size; `rm` removes some."""
    if context.invoked_subcommand is None:
        runs_list(json_)


@runs_app.command("list")
def runs_list(json_: Json = False) -> None:
    """The same as `vmoer runs` alone."""
    from pipelines.catalog import run_rows

    rows = run_rows(load_settings().home)
    if not json_:
        rows = [
            {key: row[key] for key in ("run_id", "status", "datasets", "started_at")} | {"size": size(row["bytes"])}
            for row in rows
        ]
    console.print_rows(rows, json_, "no runs yet; `vmoer demo` or `vmoer run SPEC` makes some")


@runs_app.command("rm")
def runs_rm(
    run_ids: Annotated[list[str], typer.Argument(help="Run ids, as `vmoer runs` shows them.")],
    json_: Json = False,
) -> None:
    """Remove runs with everything they stored; open pages keep them for a while, then `compact` frees the rest."""
    from pipelines.retention import remove

    removed = remove(run_ids, load_settings())
    if json_:
        console.print_json(asdict(removed))
    else:
        later = f"; `vmoer compact` frees {size(removed.bytes_later)} in ten minutes" if removed.bytes_later else ""
        console.say(f"removed {removed.runs} runs, freed {size(removed.bytes_freed)}{later}")


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
        console.say("clean" if not problems else f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
    raise typer.Exit(1 if problems else 0)


@app.command()
def compact(json_: Json = False) -> None:
    """Merge small shards, remove shards of deleted runs and old generations; readers are not disturbed."""
    from store.compact import compact as merge

    console.print_rows([asdict(merge(load_settings().home))], json_, "nothing to do")
