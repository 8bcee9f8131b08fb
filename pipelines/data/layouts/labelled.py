"""ARC, OpenBookQA and CommonsenseQA as the hub has them: options with labels, and ``answerKey`` names one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.layouts.base import QUESTION, Draft, Layout, first_of, options_in


def _read(row: Mapping[str, Any]) -> Draft:
    question = first_of(QUESTION, row)
    options, labels = options_in(row.get("choices"), "choices")
    return Draft(row[question] if question else None, options, row.get("answerkey"), labels)


LAYOUT = Layout(
    "choices with labels, answerKey (ARC, OpenBookQA, CommonsenseQA)",
    fits=lambda columns: {"choices", "answerkey"} <= columns and first_of(QUESTION, columns) is not None,
    read=_read,
    uses=lambda columns: (str(first_of(QUESTION, columns)), "choices", "answerkey"),
    answer=lambda columns: "answerkey",
    readings=("labels",),
)
