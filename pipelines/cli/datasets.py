"""The command `vmoer datasets`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.root import Json
from pipelines.console import clean, print_json, print_rows
from pipelines.data import worldfacts
from pipelines.data.option_rules import refuse_many, repeats, some
from pipelines.data.questions import Question, QuestionSet, load_questions, read_source
from pipelines.data.shown import first_rows, refused_rows, row_lines, what_it_is
from pipelines.errors import DataError
from pipelines.settings import load_settings
from pipelines.spec.sections import DataSource

_REFUSALS_SHOWN = 50


def datasets(
    path: Annotated[
        Path | None, typer.Argument(help="File or folder of questions to check; all built-in sets if left out.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check question sets: the built-in splits, or a file or folder of your own (docs/data.md).

    Of your own file it says what it was recognised as and how the first rows read, and names every row that cannot be
    used; exit code 1 when there is one.
    """
    if path is None:
        print_rows(question_set_rows(), json_, "no question sets")
        return
    found = question_file(path)
    if json_:
        print_json([found])
    else:
        print("\n".join(clean(line) for line in question_file_lines(found)))
    raise typer.Exit(1 if found["refused"] else 0)


def question_set_rows() -> list[dict[str, Any]]:
    """One row per built-in split, each read and checked in full."""
    return [
        {
            "dataset": found.name,
            "built_in": "worldfacts",
            "role": role,
            "n": len(found.questions),
            "left_out": list(found.left_out),
            "options": max(len(question.choices) for question in found.questions),
            "source": found.source,
            "content_sha256": found.content_sha256,
        }
        for found, role in (
            (load_questions(DataSource(name="worldfacts", split=split)), role)
            for split, (_, role) in worldfacts.SPLITS.items()
        )
    ]


def question_file(path: Path) -> dict[str, Any]:
    """Return what a file or folder of questions holds, with every row that is refused or left out.

    ``recognised`` says what each file is, ``first`` holds three rows as the model reads them, ``refused`` the rows that
    cannot be used; ``content_sha256`` is None when there are any.
    """
    settings = load_settings()
    name, shown, found = read_source(DataSource(path=str(path)), [], settings)
    readings = list(found)
    items = [item for reading in readings for item in reading.items]
    refused = refused_rows(readings)
    if not items and not refused:
        raise DataError(f"{shown}: it has no questions")
    left_out = [item.id for item in items if repeats(item.choices)]
    refuse_many(left_out, len(items), shown)
    questions = tuple(
        Question(item.id, item.question, item.choices, item.answer) for item in items if not repeats(item.choices)
    )
    whole = QuestionSet(name, "in-distribution", shown, questions)
    return {
        "dataset": name,
        "built_in": None,
        "role": None,
        "n": len(questions),
        "left_out": left_out,
        "options": max((len(question.choices) for question in questions), default=0),
        "source": shown,
        "content_sha256": None if refused else whole.content_sha256,
        "recognised": [{"file": reading.name, "as": what_it_is(reading)} for reading in readings],
        "first": first_rows(items),
        "refused": refused,
    }


def question_file_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the lines that show :func:`question_file` on a terminal."""
    lines = [f"{found['dataset']}: {_rows(found['n'])} can be used"]
    if found["left_out"]:
        lines.append(
            f"{len(found['left_out']):,} more have an option twice and are left out: {some(found['left_out'])}"
        )
    lines += [f"{row['file']}: {row['as']}" for row in found["recognised"]]
    if found["content_sha256"] is not None:
        lines.append(f"content {found['content_sha256']}")
    if found["first"]:
        lines += ["", "The first rows as the model reads them:"]
        lines += [line for row in found["first"] for line in row_lines(row)]
    if found["refused"]:
        lines += ["", f"Refused: {_rows(len(found['refused']))}"]
        lines += [row["reason"] for row in found["refused"][:_REFUSALS_SHOWN]]
        if len(found["refused"]) > _REFUSALS_SHOWN:
            lines.append("… (--json lists all)")
    return lines


def _rows(n: int) -> str:
    return f"{n:,} row{'' if n == 1 else 's'}"
