"""Our own layout and its relatives: a question, a list of options, an answer. MMLU as the hub has it is one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.answers import ANY, Given, is_missing, place_of
from pipelines.data.layouts.base import QUESTION, Draft, Layout, RowError, first_of, options_in

OPTIONS = ("choices", "options")
ANSWERS = (
    "answer",
    "answer_index",
    "answer_idx",
    "answerkey",
    "answer_key",
    "correct_answer",
    "correct_option",
    "correct",
    "label",
    "gold",
    "target",
)
#: an index beside the answer must name the same option
_INDICES = ("answer_index", "answer_idx")


def _fits(columns: frozenset[str]) -> bool:
    return all(first_of(names, columns) is not None for names in (QUESTION, OPTIONS, ANSWERS))


def _read(row: Mapping[str, Any]) -> Draft:
    question, column = first_of(QUESTION, row), first_of(OPTIONS, row) or "choices"
    options, labels = options_in(row.get(column), column)
    answer = first_of(ANSWERS, row)
    index = first_of(_INDICES, row)
    if answer == "answer" and index is not None and not is_missing(row[index]):
        texts = tuple(map(str, options))
        place = place_of(Given(row[index], texts), "numbers from 0")
        if place not in {place_of(Given(row[answer], texts, labels), reading) for reading in ("labels", *ANY)}:
            shown = f"answer {row[answer]!r} and {index} {row[index]!r}"
            raise RowError(index, f"{shown} do not name the same option")
    return Draft(row[question] if question else None, options, row[answer] if answer else None, labels)


LAYOUT = Layout(
    "question, choices, answer",
    fits=_fits,
    read=_read,
    uses=lambda columns: tuple(str(first_of(names, columns)) for names in (QUESTION, OPTIONS, ANSWERS)),
    answer=lambda columns: first_of(ANSWERS, columns) or "answer",
    readings=ANY,
    ids=("id", "question_id", "qid", "example_id"),
)
