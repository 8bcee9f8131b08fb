"""Rows of JSON: an array of objects, one object a line, or texts in place of objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipelines.data.rows import Limits, Row, Rows, column_names
from pipelines.errors import DataError

_WHAT_IS_RIGHT = "give an array of objects, or one object a line"


class _DuplicateKey(ValueError):
    """A key that an object has twice: which of the two values counts, nobody can say."""


def json_rows(text: str, limits: Limits, name: str, suffix: str) -> Rows | None:
    """Return the rows of a text that is JSON, or None for other text; JSON that is broken is refused.

    Each row is an object or, standing for ``{"prompt": …}``, a text.
    """
    start = text.lstrip()[:1]
    if start == "[":
        inside = text.lstrip()[1:].lstrip()[:1]
        try:
            value = _loads(text)
        except _DuplicateKey as error:
            raise DataError(f"{name}: {error}") from None
        except (ValueError, RecursionError) as error:
            if inside == "{" or suffix in ("json", "jsonl", "ndjson"):
                where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
                raise DataError(f"{name} is a JSON array that cannot be read{where}; {_WHAT_IS_RIGHT}") from None
            return None
        if isinstance(value, list):
            return _array(value, limits, name)
    if start not in ("{", '"') or (start == '"' and not _is_text(_first_line(text))):
        if suffix in ("json", "jsonl", "ndjson") and text.strip():
            raise DataError(f"{name} is not JSON; {_WHAT_IS_RIGHT}")
        return None
    if start == "{" and not _is_object(_first_line(text)):
        return _whole(text, limits, name)
    return _lines(text, limits, name)


def text_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines as editors count them: U+2028 is part of a prompt, only line feeds and returns end one."""
    yield from enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1)


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _DuplicateKey(f"an object has the key {twice[:80]!r} twice")
    return found


def _first_line(text: str) -> str:
    return next((line.strip() for _, line in text_lines(text) if line.strip()), "")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_text(line: str) -> bool:
    """Whether a line is one JSON text; a quoted column name alone is the header of a CSV file."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, str) and value.lower() not in ("prompt", "question", "text")


def _whole(text: str, limits: Limits, name: str) -> Rows:
    """A text that begins like an object whose first line is none: one object over many lines, or broken lines."""
    try:
        value = _loads(text)
    except _DuplicateKey as error:
        raise DataError(f"{name}: {error}") from None
    except (ValueError, RecursionError):
        number = next(number for number, line in text_lines(text) if line.strip())
        raise DataError(f"{name} line {number} is not a JSON object on one line; {_WHAT_IS_RIGHT}") from None
    return _rows("JSON object", [(f"{name} element 0", value)], limits, name)


def _array(values: list[Any], limits: Limits, name: str) -> Rows:
    for number, value in enumerate(values):
        if not isinstance(value, dict | str):
            raise DataError(f"{name} element {number} is neither a JSON object nor text; {_WHAT_IS_RIGHT}")
    return _rows(
        "JSON array", ((f"{name} element {number}", value) for number, value in enumerate(values)), limits, name
    )


def _lines(text: str, limits: Limits, name: str) -> Rows:
    def parsed() -> Iterator[tuple[str, Any]]:
        for number, line in text_lines(text):
            if not line.strip():
                continue
            place = f"{name} line {number}"
            try:
                value = _loads(line)
            except _DuplicateKey as error:
                raise DataError(f"{place}: {error}") from None
            except (ValueError, RecursionError):
                raise DataError(f"{place} is not a JSON object on one line") from None
            if not isinstance(value, dict | str):
                raise DataError(f"{place} is not a JSON object on one line")
            yield place, value

    return _rows("JSON lines", parsed(), limits, name)


def _rows(kind: str, values: Iterable[tuple[str, Any]], limits: Limits, name: str) -> Rows:
    found: list[tuple[str, Row]] = []
    columns: dict[str, None] = {}
    for place, value in values:
        if limits.rows is not None and len(found) == limits.rows:
            raise DataError(f"{name} has more than {limits.rows:,} prompts, the most that are allowed")
        if isinstance(value, str):
            row: Row = {"prompt": value}
        else:
            names = column_names(value, place)
            row = {key: value[given] for key, given in names.items()}
        columns.update(dict.fromkeys(row))
        found.append((place, row))
    column_names(columns, name)  # many rows may have many columns between them

    def read(wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
        yield from found

    return Rows(kind, tuple(columns), read)
