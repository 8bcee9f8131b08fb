"""A column for each option, by letter or number: ``A`` to ``D``, ``option_a``, ``choice1``, ``ending0``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.answers import ANY, LETTERS, is_missing
from pipelines.data.layouts.base import QUESTION, Draft, Layout, first_of
from pipelines.data.layouts.own import ANSWERS

_STEMS = ("", "option", "choice", "ending", "answer", "opt")
_QUESTION = (*QUESTION, "sentence", "ctx", "goal")


def option_names(columns: frozenset[str]) -> tuple[str, ...]:
    """Return the columns of the options in order: two or more of one kind, from the first on without a gap."""
    for stem in _STEMS:
        for join in ("", "_") if stem else ("",):
            lettered = _run([f"{stem}{join}{letter.lower()}" for letter in LETTERS], columns)
            numbered = [f"{stem}{join}{number}" for number in range(101)] if stem else []
            for names in (lettered, _run(numbered, columns) or _run(numbered[1:], columns)):
                if len(names) >= 2:
                    return names
    return ()


def _run(names: list[str], columns: frozenset[str]) -> tuple[str, ...]:
    present: list[str] = []
    for name in names:
        if name not in columns:
            break
        present.append(name)
    return tuple(present)


def _fits(columns: frozenset[str]) -> bool:
    return bool(option_names(columns)) and all(first_of(names, columns) for names in (_QUESTION, ANSWERS))


def _read(row: Mapping[str, Any]) -> Draft:
    names = option_names(frozenset(row))
    texts = [row[name] for name in names]
    while texts and is_missing(texts[-1]):  # a question with fewer options leaves the last columns empty
        texts.pop()
    question, answer = first_of(_QUESTION, row), first_of(ANSWERS, row)
    given = row[answer] if answer else None
    return Draft(row[question] if question else None, texts, given)


LAYOUT = Layout(
    "question, a column for each option, answer",
    fits=_fits,
    read=_read,
    uses=lambda columns: (
        str(first_of(_QUESTION, columns)),
        *option_names(columns),
        str(first_of(ANSWERS, columns)),
    ),
    answer=lambda columns: first_of(ANSWERS, columns) or "answer",
    readings=ANY,
    ids=("id", "question_id", "qid", "example_id"),
)
