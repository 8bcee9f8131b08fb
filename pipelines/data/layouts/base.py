"""What a layout is: which columns it is known by, and what one row says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.data.literals import value_in
from pipelines.data.option_rules import MOST_OPTIONS

#: columns that hold a question's text, the first one present is taken
QUESTION = ("question", "question_stem", "question_text", "query", "prompt", "text")


class RowError(ValueError):
    """A row that cannot be read as its layout says: the column at fault and what is wrong, as one sentence."""

    def __init__(self, column: str, sentence: str) -> None:
        super().__init__(sentence)
        self.column = column


@dataclass(frozen=True)
class Draft:
    """What one row says before it is checked: values as they stand; ``choices`` is None for a prompt."""

    question: object
    choices: object
    answer: object = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """``fits(columns)`` tells by names alone; ``read(row)`` gives a :class:`Draft` or raises :class:`RowError`.

    ``uses(columns)`` are the columns that are read; ``answer(columns)`` is the one with the answer, and ``readings``
    are the ways in which it may be meant. ``ids`` and ``subject`` name columns, the first one present is taken.
    """

    name: str
    fits: Callable[[frozenset[str]], bool]
    read: Callable[[Mapping[str, Any]], Draft]
    uses: Callable[[frozenset[str]], tuple[str, ...]]
    answer: Callable[[frozenset[str]], str]
    readings: tuple[str, ...]
    ids: tuple[str, ...] = ("id",)
    subject: tuple[str, ...] = ("subject",)


def first_of(names: tuple[str, ...], columns: frozenset[str] | Mapping[str, Any]) -> str | None:
    """Return the first of ``names`` that is among the columns."""
    return next((name for name in names if name in columns), None)


def fixed(
    name: str,
    columns: tuple[str, ...],
    answer: str,
    readings: tuple[str, ...],
    read: Callable[[Mapping[str, Any]], Draft],
    extra: tuple[str, ...] = (),
    subject: tuple[str, ...] = ("subject",),
) -> Layout:
    """Return the layout of a set whose columns always have the same names; ``extra`` ones may be absent."""
    needed = frozenset(columns)
    return Layout(
        name,
        fits=lambda found: needed <= found,
        read=read,
        uses=lambda found: (*columns, *(column for column in extra if column in found)),
        answer=lambda found: answer,
        readings=readings,
        subject=subject,
    )


def options_in(value: object, column: str) -> tuple[list[Any], tuple[str, ...]]:
    """Return ``(options, their labels)`` from any way to write them; labels are empty where there are none.

    A list of texts, a list of ``{label, text}``, ``{label: […], text: […]}``, or ``{A: …, B: …}``; as text too.
    """
    if isinstance(value, str):
        try:
            value = value_in(value)
        except ValueError:
            raise RowError(column, f'{column} must be a list of options, for instance ["a", "b"]') from None
    if isinstance(value, dict):
        if {"text", "label"} <= set(value):
            return _matched(value["text"], value["label"], column)
        labels = [str(label).strip() for label, text in value.items() if text is not None]
        if labels != sorted(labels) or not all(len(label) == 1 for label in labels):
            raise RowError(column, f"{column} must be a list of options, or options by letter in order")
        return [text for text in value.values() if text is not None], tuple(labels)
    if not isinstance(value, list | tuple):
        raise RowError(column, f"{column} must be a list of 2 to {MOST_OPTIONS} options")
    if value and all(isinstance(item, dict) and {"text", "label"} <= set(item) for item in value):
        return _matched([item["text"] for item in value], [item["label"] for item in value], column)
    return list(value), ()


def _matched(texts: object, labels: object, column: str) -> tuple[list[Any], tuple[str, ...]]:
    if not isinstance(texts, list | tuple) or not isinstance(labels, list | tuple) or len(texts) != len(labels):
        raise RowError(column, f"{column} must hold as many labels as texts")
    return list(texts), tuple(str(label).strip() for label in labels)
