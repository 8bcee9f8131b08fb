"""Prompts without options: the first of the columns ``prompt``, ``question`` and ``text``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.layouts.base import Draft, Layout, RowError, first_of
from pipelines.data.layouts.option_columns import option_names
from pipelines.data.layouts.own import OPTIONS

COLUMNS = ("prompt", "question", "text")
#: columns that hold options in one layout or another; a file that has one is no file of prompts
_OF_OPTIONS = frozenset({*OPTIONS, "endings", "sol1", "distractor1", "mc1_targets", "mc2_targets", "opa"})


def _fits(columns: frozenset[str]) -> bool:
    return first_of(COLUMNS, columns) is not None and not _OF_OPTIONS & columns and not option_names(columns)


def _read(row: Mapping[str, Any]) -> Draft:
    column = first_of(COLUMNS, row)
    if column is None:
        raise RowError("prompt", "has no 'prompt', 'question' or 'text'")
    return Draft(row[column], None)


LAYOUT = Layout(
    "prompts without options",
    fits=_fits,
    read=_read,
    uses=lambda columns: tuple(column for column in COLUMNS if column in columns),
    answer=lambda columns: "",
    readings=(),
)
