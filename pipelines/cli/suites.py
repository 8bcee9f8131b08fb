"""Commands about suites: reproduce one, and carry its runs from one data folder to another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipelines import console
from pipelines.cli.listing import run_rows
from pipelines.cli.root import Device, Json, names
from pipelines.reproduce.reproduce import reproduce as run_suite
from pipelines.reproduce.reproduce import write_document, write_runs
from pipelines.settings import load_settings
from store.archive import read_archive


def reproduce(
    suite: Annotated[str, typer.Argument(help="Name of a suite: thesis.")] = "thesis",
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "smollm2-moe",
    form: Annotated[str, typer.Option(help="quick, laptop, gpu or full: how much is computed.")] = "full",
    quick: Annotated[bool, typer.Option("--quick", help="The same as --form quick: shipped weights, minutes.")] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            callback=names, help="Question sets, comma-separated or the option again; left out: all there are."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the Parquet files of the question sets.")] = None,
    questions: Annotated[int | None, typer.Option(min=10, help="At most this many questions per set.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            callback=names, help="Experiments, comma-separated or the option again; left out: all of the form."
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the document.")] = Path("vmoer-results"),
    estimate: Annotated[bool, typer.Option("--estimate", help="Print what it would cost and stop.")] = False,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Run every experiment of a suite and write each claim's verdict, with the tables behind it."""
    settings = replace(load_settings(), device=device)
    form = "quick" if quick else form
    ids = run_suite(
        suite,
        form,
        model,
        settings,
        sets=sets or None,
        data=data,
        questions=questions,
        only=only or [],
        only_estimate=estimate,
        quiet=json_,
    )
    written = [] if estimate else write_document(suite, form, model, settings, output)
    if json_:
        console.print_json({"run_ids": ids, "files": [str(path) for path in written]})
    for path in [] if json_ else written:
        print(console.clean(path))


def archive(
    output: Annotated[Path, typer.Argument(help="File to write, e.g. results.zip.")],
    name: Annotated[str, typer.Option(help="Only runs whose experiment name begins so.")] = "",
    summaries: Annotated[
        bool,
        typer.Option("--summaries", help="Leave out answers and scores per question."),
    ] = False,
    json_: Json = False,
) -> None:
    """Pack the results of finished runs (no prompts, no routing) into one file that `vmoer import` reads."""
    settings = load_settings()
    chosen = [row for row in run_rows(settings.home) if row["status"] == "finished" and row["name"].startswith(name)]
    path = write_runs([row["run_id"] for row in chosen], settings, output, summaries)
    if json_:
        console.print_json({"runs": len(chosen), "output": str(path), "bytes": path.stat().st_size})
    else:
        console.say(f"{len(chosen)} runs in {path} ({path.stat().st_size} bytes)")


def import_(
    file: Annotated[Path, typer.Argument(help="An archive that `vmoer archive` wrote.")], json_: Json = False
) -> None:
    """Add the runs of an archive to the data folder, labelled as archived; those already there stay as they are."""
    ids = read_archive(file, load_settings().home)
    console.print_rows([{"run_id": run_id} for run_id in ids], json_, "the archive holds no runs")
