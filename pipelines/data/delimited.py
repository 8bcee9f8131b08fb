"""Rows of text with separators (comma, semicolon, tab, bar), with quoted line breaks; MMLU's files have no header."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence

from pipelines.data.rows import MAX_COLUMNS, Row, Rows, column_name, column_names
from pipelines.errors import DataError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_HEADERLESS = ("question", "a", "b", "c", "d", "answer")


def delimited_rows(text: str, name: str, suffix: str, known: Callable[[frozenset[str]], bool]) -> Rows | None:
    """Return the rows of a text with separators, or None for other text.

    The first line decides: with one of the separators it must hold columns that ``known`` accepts. A table without
    such columns is refused, unless it is a file of MMLU, which has none.
    """
    named_csv = suffix in ("csv", "tsv", "tab", "psv")
    given, text = _said(text)
    headers = {mark: _header(text, mark) for mark in ([given] if given else SEPARATORS)}
    fitting = [mark for mark, header in headers.items() if known(frozenset(map(column_name, header)))]
    if fitting:
        return _rows(text, max(fitting, key=lambda mark: len(headers[mark])), name)
    for mark in headers:
        if (rows := _headerless(text, mark, name)) is not None:
            return rows
    table = next((mark for mark in headers if _is_table(text, mark)), None)
    if text.strip() and (named_csv or table is not None):
        mark = table or max(headers, key=lambda mark: len(headers[mark]))
        names = ", ".join(repr(field[:40]) for field in headers[mark][:6])
        raise DataError(
            f"{name} is a table with the columns {names} and has no column 'prompt', 'question' or 'text'; "
            "name its columns in the first line (docs/data.md has the layouts)"
        )
    return None


def _said(text: str) -> tuple[str | None, str]:
    """Split off the line ``sep=;`` that Excel understands."""
    first, _, rest = text.partition("\n")
    line = first.strip("\r")
    if len(line) == 5 and line.lower().startswith("sep=") and line[4] in SEPARATORS:
        return line[4], rest
    return None, text


def _header(text: str, mark: str) -> list[str]:
    """The fields of the first line that is not blank; nothing when they cannot be column names."""
    start = text.lstrip("\r\n ")[:100_000]
    try:
        row = next((row for row in csv.reader(io.StringIO(start, newline=""), delimiter=mark) if row), [])
    except csv.Error:
        return []
    return row if len(row) <= MAX_COLUMNS and all(len(field) < 100 for field in row) else []


def _rows(text: str, mark: str, name: str) -> Rows:
    kind = f"CSV ({SEPARATORS[mark]})"
    try:
        header = next((row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark) if row), [])
    except csv.Error:
        header = []
    columns = column_names(header, name)
    names = [column_name(field) for field in header]  # Excel leaves columns without a name at the end

    def read(wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
        rows = _records(text, mark, name)
        next(rows, None)
        for place, row in rows:
            if len(row) != len(header):
                raise DataError(f"{place} has {len(row)} fields, the header has {len(header)}")
            yield place, dict(zip(names, row, strict=True))

    return Rows(kind, tuple(columns), read)


def _records(text: str, mark: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """Each record that is not blank, with the line it ends on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        for row in reader:
            if any(field.strip() for field in row):
                yield f"{name} line {reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{name} line {reader.line_num} is not valid CSV ({error})") from None


def _headerless(text: str, mark: str, name: str) -> Rows | None:
    """The rows of a file like MMLU's: in every row a question, four options and a letter from A to D."""
    try:
        rows = list(_records(text, mark, name))
    except DataError:
        return None
    if not rows or any(len(row) != len(_HEADERLESS) or row[-1].strip() not in "ABCD" for _, row in rows):
        return None
    if any(not row[-1].strip() for _, row in rows):
        return None

    def read(wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
        yield from ((place, dict(zip(_HEADERLESS, row, strict=True))) for place, row in rows)

    return Rows(f"CSV ({SEPARATORS[mark]}, no header)", _HEADERLESS, read)


def _is_table(text: str, mark: str) -> bool:
    """Whether a text is clearly a table: a line of short names, then records of as many fields each.

    Commas stand in sentences, so they alone make no table; nor does one bar or semicolon a line.
    """
    header = _header(text, mark)
    least = {",": MAX_COLUMNS + 1, "\t": 2}.get(mark, 3)
    names = [column_name(field) for field in header]
    if len(header) < least or len(set(names)) < len(names) or not all(field.isidentifier() for field in names):
        return False
    try:
        widths = [len(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark) if row]
    except csv.Error:
        return False
    return len(widths) > 1 and set(widths) == {len(header)}
