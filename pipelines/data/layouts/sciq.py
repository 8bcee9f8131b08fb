"""SciQ: the right answer and three distractors, without an order.

They are put in alphabetical order, so that the place of an option does not tell whether it is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.layouts.base import Draft, RowError, fixed

_WRONG = ("distractor1", "distractor2", "distractor3")


def _read(row: Mapping[str, Any]) -> Draft:
    right, wrong = row.get("correct_answer"), [row.get(column) for column in _WRONG]
    if not isinstance(right, str) or not all(isinstance(option, str) for option in wrong):
        raise RowError("correct_answer", "an option is empty or not text")
    if right in wrong:
        raise RowError("correct_answer", "correct_answer stands among the distractors too")
    options = sorted([right, *map(str, wrong)])
    return Draft(row.get("question"), options, options.index(right))


LAYOUT = fixed(
    "question, correct_answer, distractors (SciQ)",
    ("question", "correct_answer", *_WRONG),
    "correct_answer",
    ("numbers from 0",),
    _read,
)
