"""What a column of answers means, decided for a whole file: letters, numbers from 0 or 1, labels, or texts.

The rule: a column is read the one way under which every row has an answer. Where two ways fit and give different
answers the file is refused. Whole numbers with a type (JSON, Parquet) always count from 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.errors import DataError

_NUMBER = re.compile(r"\s*(-?\d{1,9})(\.0*)?\s*", re.ASCII)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Given:
    """The answer of one row as it stands in the file, beside the row's options and their own labels, if any."""

    value: object
    options: tuple[str, ...]
    labels: tuple[str, ...] = ()


def is_missing(value: object) -> bool:
    """Whether a row has no answer: nothing, an empty text, or not a number."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def _number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    found = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) if found else None


def _from_zero(given: Given) -> int | None:
    number = _number(given.value)
    return number if number is not None and 0 <= number < len(given.options) else None


def _from_one(given: Given) -> int | None:
    number = _number(given.value)
    return number - 1 if number is not None and 1 <= number <= len(given.options) else None


def _letter(given: Given) -> int | None:
    if not isinstance(given.value, str):
        return None
    letter = given.value.strip().strip("().: ").upper()
    place = LETTERS.find(letter) if len(letter) == 1 else -1
    return place if 0 <= place < len(given.options) else None


def _label(given: Given) -> int | None:
    label = str(given.value).strip()
    return given.labels.index(label) if given.labels.count(label) == 1 else None


def _text(given: Given) -> int | None:
    options = [option.strip() for option in given.options]
    text = given.value.strip() if isinstance(given.value, str) else None
    return options.index(text) if text is not None and options.count(text) == 1 else None


def _truth(given: Given) -> int | None:
    if isinstance(given.value, bool):
        return int(given.value)
    text = str(given.value).strip().lower()
    return {"true": 1, "1": 1, "yes": 1, "false": 0, "0": 0, "no": 0}.get(text)


#: way to read an answer → ``(function, what a row that does not fit must be)``
READINGS: dict[str, tuple[Callable[[Given], int | None], str]] = {
    "letters": (_letter, "must be a letter from A to {last}"),
    "numbers from 0": (_from_zero, "must be a 0-based index below {n}"),
    "numbers from 1": (_from_one, "must be a number from 1 to {n}"),
    "labels": (_label, "must be the label of one option"),
    "texts of options": (_text, "must be the text of one option"),
    "true or false": (_truth, "must be true or false"),
}
#: the ways to read a column of which nothing is known, those that people use most first
ANY = ("letters", "numbers from 0", "numbers from 1", "texts of options")


def decide(column: str, answers: Sequence[Given], readings: Sequence[str], name: str) -> str:
    """Return the way to read ``answers``, all those of a file; two ways that differ are refused."""
    present = [given for given in answers if not is_missing(given.value)]
    if len(readings) == 1 or not present:
        return readings[0]
    typed = all(isinstance(given.value, int) and not isinstance(given.value, bool) for given in present)
    if typed and "texts of options" in readings:
        readings = [reading for reading in readings if reading in ("labels", "numbers from 0")]
    found = {reading: [READINGS[reading][0](given) for given in present] for reading in readings}
    fitting = [reading for reading, places in found.items() if None not in places]
    if not fitting:
        return max(readings, key=lambda reading: sum(place is not None for place in found[reading]))
    other = next((reading for reading in fitting[1:] if found[reading] != found[fitting[0]]), None)
    if other is not None:
        raise DataError(
            f"{name}: column {column!r} can be read as {fitting[0]} and as {other}, with different answers; "
            "write it so that only one of them fits: as letters, or in JSON as whole numbers from 0"
        )
    return fitting[0]


def place_of(given: Given, reading: str) -> int | None:
    """Return the 0-based index of the right option, or None when the answer does not fit."""
    return READINGS[reading][0](given)


def rule(given: Given, reading: str) -> str:
    """Return what the answer must be, in words."""
    n = len(given.options)
    return READINGS[reading][1].format(n=n, last=LETTERS[min(n, 26) - 1])
