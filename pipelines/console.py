"""What the command line prints: plain text without escape sequences from data, JSON, tables and progress bars."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


def clean(text: object) -> str:
    """``text`` on one line without control or format characters (terminal escapes, bidi overrides)."""
    return "".join(
        char if char == " " or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else "?"
        for char in str(text)
    )


def say(text: str) -> None:
    """A line for the user, on standard error so that standard output stays data."""
    print(clean(text), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Valid JSON on standard output (no NaN)."""
    print(json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False, default=str))


def print_rows(rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str) -> None:
    """Rows as JSON or as a table; ``empty`` is the line for none."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        say(empty)
        return
    table = Table(box=None, pad_edge=False, show_edge=False)
    for place, name in enumerate(rows[0]):
        table.add_column(name, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*[Text(_cell(value)) for value in row.values()])
    width = None if sys.stdout.isatty() else 240
    Console(highlight=False, markup=False, width=width).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return clean(", ".join(map(str, value)))
    if isinstance(value, float):
        return f"{value:.4g}"
    return clean(value)


class JobProgress:
    """Two bars for a job on a terminal (the job, the stage it is in); lines of text when there is none."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet
        self._stage = ("", "")
        self._job: TaskID | None = None
        self._part: TaskID | None = None
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False, markup=False),
        )

    def __enter__(self) -> JobProgress:
        if self._terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._terminal:
            self._bars.stop()

    def __call__(self, _job_id: str, state: Mapping[str, Any]) -> None:
        """Show a progress event."""
        stage = (str(state["stage"]), str(state["message"]))
        if self._terminal:
            self._show(state, stage)
        elif stage != self._stage and not self._quiet:
            say(f"{stage[0]}: {stage[1]} ({state['done']}/{state['total']})")
        self._stage = stage

    def _show(self, state: Mapping[str, Any], stage: tuple[str, str]) -> None:
        if self._job is None:
            self._job = self._bars.add_task("whole job", total=None)
            self._part = self._bars.add_task("", total=None)
        assert self._part is not None
        self._bars.update(self._job, total=state["total"] or None, completed=state["done"])
        if stage != self._stage:
            self._bars.reset(self._part, description=clean(f"{stage[0]}: {stage[1]}"))
        self._bars.update(self._part, total=state["stage_total"] or None, completed=state["stage_done"])
