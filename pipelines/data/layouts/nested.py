"""ARC, OpenBookQA and CommonsenseQA as published: ``question`` holds the stem and the options with their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.layouts.base import Draft, Layout, RowError, options_in
from pipelines.data.literals import value_in


def _read(row: Mapping[str, Any]) -> Draft:
    question = row.get("question")
    if isinstance(question, str):
        try:
            question = value_in(question)
        except ValueError:
            question = None
    if not isinstance(question, dict) or not {"stem", "choices"} <= set(question):
        raise RowError("question", "question must hold 'stem' and 'choices', as no column of options stands beside it")
    options, labels = options_in(question["choices"], "choices")
    return Draft(question["stem"], options, row.get("answerkey"), labels)


LAYOUT = Layout(
    "question with stem and choices, answerKey (ARC, OpenBookQA, CommonsenseQA as published)",
    fits=lambda columns: {"question", "answerkey"} <= columns and "choices" not in columns,
    read=_read,
    uses=lambda columns: ("question", "answerkey"),
    answer=lambda columns: "answerkey",
    readings=("labels",),
)
