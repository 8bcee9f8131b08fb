"""BoolQ: a passage and a question that is answered by no or yes, in this order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.layouts.base import Draft, Layout, RowError, first_of

_ANSWER = ("answer", "label")


def _read(row: Mapping[str, Any]) -> Draft:
    passage, question = row.get("passage"), row.get("question")
    if not isinstance(passage, str) or not isinstance(question, str) or not question.strip():
        raise RowError("passage", "passage or question is empty or not text")
    column = first_of(_ANSWER, row)
    return Draft(f"{passage}\n{question.rstrip('?')}?", ["no", "yes"], row[column] if column else None)


LAYOUT = Layout(
    "passage, question, answer (BoolQ)",
    fits=lambda columns: (
        {"passage", "question"} <= columns
        and first_of(_ANSWER, columns) is not None
        and not {"choices", "options"} & columns
    ),
    read=_read,
    uses=lambda columns: ("passage", "question", str(first_of(_ANSWER, columns))),
    answer=lambda columns: str(first_of(_ANSWER, columns)),
    readings=("true or false",),
)
