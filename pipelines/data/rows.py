"""Rows of a file before anything is known of what they mean: a kind of file, its columns, and a way to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.errors import DataError

Row = Mapping[str, Any]
#: the most columns a file may have; what has more is no file of questions
MAX_COLUMNS = 1000


@dataclass(frozen=True)
class Limits:
    """How much of a file is read: bytes as stored, bytes once unpacked, and rows (None: as many as there are)."""

    stored: int
    unpacked: int
    rows: int | None


@dataclass(frozen=True)
class Rows:
    """``kind`` says what the file is, ``columns`` are its column names in lower case with underscores.

    ``read(columns)`` yields ``(place, row)``; a row holds at least the asked columns that it has. ``lines`` marks
    text without columns, where each line is a prompt.
    """

    kind: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[tuple[str, Row]]]
    lines: bool = False


def column_name(name: str) -> str:
    """Return a column's name as layouts know it: ``Option A`` and ``option_a`` are the same."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def column_names(names: Iterable[object], file: str) -> dict[str, str]:
    """Map names as layouts know them to those in the file; too many and two alike are refused."""
    found: dict[str, str] = {}
    for count, name in enumerate(names, 1):
        if count > MAX_COLUMNS:
            raise DataError(f"{file} has more than {MAX_COLUMNS:,} columns, the most that are allowed")
        key = column_name(str(name))
        if key in found and key:
            raise DataError(f"{file} has two columns called {key[:80]!r}; give one of them another name")
        found[key] = str(name)
    return found
