"""The command `vmoer datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.root import Json
from pipelines.console import print_rows
from pipelines.data import worldfacts
from pipelines.data.questions import load_questions
from pipelines.spec.model import DataSource


def datasets(
    path: Annotated[
        Path | None, typer.Argument(help="Parquet file or folder to check; all built-in sets if left out.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check question sets: the built-in splits, or a Parquet file or folder of your own."""
    print_rows(question_set_rows(path), json_, "no question sets")


def question_set_rows(path: Path | None) -> list[dict[str, Any]]:
    """One row per built-in split, or the one for ``path``, each read and checked in full."""
    if path is not None:
        sources = [("", DataSource(path=str(path)), "")]
    else:
        sources = [
            ("worldfacts", DataSource(name="worldfacts", split=split), role)
            for split, (_, role) in worldfacts.SPLITS.items()
        ]
    rows = []
    for name, source, role in sources:
        found = load_questions(source)
        rows.append(
            {
                "dataset": found.name,
                "built_in": name or None,
                "role": role or None,
                "n": len(found.questions),
                "left_out": list(found.left_out),
                "options": max(len(question.choices) for question in found.questions),
                "source": found.source,
                "content_sha256": found.content_sha256,
            }
        )
    return rows
