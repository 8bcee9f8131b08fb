"""How many options a question may have, and what becomes of questions whose options repeat.

Two options of the same text cannot be told apart: likelihood scoring gives both the same score, so that the first
counts as the prediction, and the probability of what they say is split in two. That holds for wrong options too. Such
questions are left out, and named; where they are more than a tenth of a set, the set is refused.

The same text means: the same after Unicode composition (NFC), with spaces around it removed and runs of spaces inside
made one. Case counts: *US* and *us* are two options.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from string import ascii_uppercase

from pipelines.errors import DataError

#: of a question whose options are scored by their text
MOST_OPTIONS = 100
#: names of options in letter scoring, so that is the most options it takes
LETTERS = ascii_uppercase
#: one in so many questions may have repeated options
_FEW = 10


def wrong_options(choices: object) -> str | None:
    """Say what is wrong with the options of a question; return None when nothing is."""
    if not isinstance(choices, list | tuple) or not 2 <= len(choices) <= MOST_OPTIONS:
        return f"choices must be a list of 2 to {MOST_OPTIONS} options"
    if any(isinstance(choice, int | float) for choice in choices):
        return "an option is a number; write options as text, for instance in quotes"
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        return "an option is empty or not text"
    return None


def repeats(choices: Sequence[str]) -> bool:
    """Whether two options have the same text."""
    return len({_plain(choice) for choice in choices}) < len(choices)


def refuse_many(left_out: Sequence[str], given: int, shown: str) -> None:
    """Refuse a set when more than a tenth of its ``given`` questions are left out because their options repeat."""
    if len(left_out) * _FEW > given:
        raise DataError(
            f"{shown}: {len(left_out)} of {given} questions have an option twice ({some(left_out)}), more than a "
            "tenth; give each option once, as equal texts cannot be told apart"
        )


def check_letters(numbers: Iterable[int], shown: str) -> None:
    """Refuse questions with more options than there are letters, for letter scoring."""
    most = max(numbers, default=0)
    if most > len(LETTERS):
        raise DataError(
            f"{shown}: a question has {most} options, and letter scoring names at most {len(LETTERS)}; use "
            "`scoring: likelihood`"
        )


def some(names: Iterable[str], most: int = 5) -> str:
    """The first of some ids, for a sentence."""
    listed = list(names)
    shown = ", ".join(name[:80] for name in listed[:most])
    return f"{shown}, …" if len(listed) > most else shown


def _plain(choice: str) -> str:
    return " ".join(unicodedata.normalize("NFC", choice).split())
