"""MMLU-Pro: up to ten options, the answer as a letter and as an index, which must agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.answers import Given, place_of
from pipelines.data.layouts.base import Draft, Layout, RowError, options_in

_COLUMNS = ("question", "options", "answer", "answer_index")


def _read(row: Mapping[str, Any]) -> Draft:
    options, labels = options_in(row.get("options"), "options")
    texts = tuple(map(str, options))
    letter = place_of(Given(row.get("answer"), texts), "letters")
    index = place_of(Given(row.get("answer_index"), texts), "numbers from 0")
    if letter != index:
        shown = f"answer {row.get('answer')!r} and answer_index {row.get('answer_index')!r}"
        raise RowError("answer_index", f"{shown} do not name the same option")
    return Draft(row.get("question"), options, row.get("answer"), labels)


LAYOUT = Layout(
    "question, options, answer, answer_index (MMLU-Pro)",
    fits=lambda columns: set(_COLUMNS) <= columns,
    read=_read,
    uses=lambda columns: _COLUMNS,
    answer=lambda columns: "answer",
    readings=("letters",),
    ids=("id", "question_id"),
    subject=("subject", "category"),
)
