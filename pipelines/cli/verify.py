"""The command `vmoer verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

import store.verify
from pipelines import console
from pipelines.cli.root import Json
from pipelines.experiment.check_home import check_home
from pipelines.settings import load_settings


def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Remove leftovers and publish again where needed.")] = False,
    json_: Json = False,
) -> None:
    """Check hashes, row counts and keys of everything stored, trained routers and jobs; exit code 1 if one is wrong."""
    settings = load_settings()
    problems = [*store.verify.verify(settings.home, repair=repair), *check_home(settings)]
    if json_:
        console.print_json([asdict(problem) for problem in problems])
    else:
        for problem in problems:
            print(console.clean(problem.sentence))
        console.say("clean" if not problems else f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
    raise typer.Exit(1 if problems else 0)
