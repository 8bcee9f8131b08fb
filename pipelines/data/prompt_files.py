"""Prompts without answers from a file: text, CSV, JSON lines or Parquet, told apart by what is inside, never by name.

Nothing in a file is run, and nothing of unknown size is expanded: every cap is checked before what it bounds.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.errors import DataError
from pipelines.settings import Settings

#: columns that hold the prompt, the first one present is taken
PROMPT_COLUMNS = ("prompt", "question", "text")
SUFFIXES = ("txt", "csv", "jsonl", "parquet")
_MAX_COLUMNS = 1000
_PARQUET_MAGIC = b"PAR1"
#: first bytes of files that are something else and would be read as nonsense
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"%PDF": "a PDF",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x89PNG": "a picture",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}


@dataclass(frozen=True)
class Prompt:
    """One prompt; ``id`` is the file's own or its number from ``p00001``."""

    id: str
    text: str


def parse_prompts(content: bytes, settings: Settings, name: str = "the file") -> list[Prompt]:
    """The prompts in a file; :class:`DataError` names the first place that is wrong.

    Parquet and CSV need a column ``prompt``, ``question`` or ``text``; JSON lines hold objects with such a key, or
    plain strings; anything else is one prompt a line, empty lines left out. An ``id`` column is used where there is
    one. A byte-order mark and Windows line ends are accepted.
    """
    if len(content) > settings.max_upload_bytes:
        raise DataError(f"{name} has {len(content):,} bytes; at most {settings.max_upload_bytes:,} are allowed")
    kind = next((kind for start, kind in _OTHER_KINDS.items() if content.startswith(start)), None)
    if kind is not None:
        raise DataError(f"{name} is {kind}; give prompts as UTF-8 text, CSV, JSON lines or Parquet")
    rows = _parquet(content, settings, name) if content.startswith(_PARQUET_MAGIC) else _text_rows(content, name)
    prompts: list[Prompt] = []
    seen: set[str] = set()
    for place, identifier, text in rows:
        if len(prompts) == settings.max_upload_prompts:
            raise DataError(f"{name} has more than {settings.max_upload_prompts:,} prompts, the most that are allowed")
        prompt = Prompt(_identifier(identifier, len(prompts), place), check_prompt(text, settings, place))
        if prompt.id in seen:
            raise DataError(f"{place}: id {prompt.id[:80]!r} occurs twice; ids must be unique")
        seen.add(prompt.id)
        prompts.append(prompt)
    if not prompts:
        raise DataError(f"{name} has no prompts")
    return prompts


def check_prompt(text: object, settings: Settings, place: str = "the prompt") -> str:
    """``text`` itself if it can be tokenised: not empty, not too long, no NUL, no lone surrogate."""
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place} is empty" if text is None or isinstance(text, str) else f"{place} is not text")
    if len(text) > settings.max_prompt_chars:
        raise DataError(f"{place} has {len(text):,} characters; at most {settings.max_prompt_chars:,} are allowed")
    if "\0" in text:
        raise DataError(f"{place} holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place} holds a lone surrogate, which is no character") from None
    return text


def _identifier(given: object, number: int, place: str) -> str:
    if given is None or given == "":
        return f"p{number + 1:05d}"
    text = str(given)
    if len(text) > 500 or not text.isprintable():
        raise DataError(f"{place}: id must be one line of at most 500 printable characters")
    return text


def _text_rows(content: bytes, name: str) -> Iterable[tuple[str, Any, Any]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text (byte {error.start:,}) and not Parquet") from None
    first = next((line.strip() for _, line in _lines(text) if line.strip()), "")
    if first.startswith(("{", '"')) and _is_json(first):
        return _json_rows(text, name)
    header = next(csv.reader([first]), []) if len(first) < 100_000 else []
    if _prompt_column([field.strip().lower() for field in header]) is not None and _looks_like_a_header(header):
        return _csv_rows(text, name)
    return ((f"{name} line {number}", None, line) for number, line in _lines(text) if line.strip())


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines as editors count them: U+2028 and the like are part of a prompt, only line feeds and returns end one."""
    yield from enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1)


def _is_json(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line.startswith("{")  # a broken line must not pass as the text of a prompt
    return isinstance(value, dict) or (isinstance(value, str) and value.lower() not in PROMPT_COLUMNS)


def _looks_like_a_header(header: list[str]) -> bool:
    """Column names are short words; a first prompt that happens to be the word `text` alone is not told apart."""
    return len(header) <= _MAX_COLUMNS and all(len(field) < 100 for field in header)


def _prompt_column(names: list[str]) -> str | None:
    return next((column for column in PROMPT_COLUMNS if column in names), None)


def _json_rows(text: str, name: str) -> Iterator[tuple[str, Any, Any]]:
    for number, line in _lines(text):
        place = f"{name} line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{place} is not a JSON object on one line") from None
        if isinstance(row, str):
            yield place, None, row
            continue
        column = _prompt_column([str(key) for key in row]) if isinstance(row, dict) else None
        if column is None:
            raise DataError(f"{place} has no {_or_list()}")
        yield place, row.get("id"), row[column]


def _csv_rows(text: str, name: str) -> Iterator[tuple[str, Any, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [field.strip().lower() for field in next(row for row in reader if row)]
        column = _prompt_column(header)
        if column is None:  # a quote that is not closed on the first line makes another header of it
            raise DataError(f"{name} line {reader.line_num} has no {_or_list()}")
        where, identifier = header.index(column), header.index("id") if "id" in header else None
        for row in reader:
            if not row:
                continue
            place = f"{name} line {reader.line_num}"
            if len(row) != len(header):
                raise DataError(f"{place} has {len(row)} fields, the header has {len(header)}")
            yield place, None if identifier is None else row[identifier], row[where]
    except csv.Error as error:
        raise DataError(f"{name} line {reader.line_num} is not valid CSV ({error})") from None


def _parquet(content: bytes, settings: Settings, name: str) -> Iterator[tuple[str, Any, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            footer = file.metadata
            names = [str(field) for field in file.schema_arrow.names]
            column = _prompt_column(names)
            if column is None:
                raise DataError(f"{name} has no column {_or_list()}")
            if footer.num_rows > settings.max_upload_prompts:
                raise DataError(
                    f"{name} has {footer.num_rows:,} prompts; at most {settings.max_upload_prompts:,} are allowed"
                )
            wanted = [column, *(["id"] if "id" in names else [])]
            size = _expanded(footer)
            if size > 20 * settings.max_upload_bytes:  # text compresses, but not a hundredfold
                raise DataError(f"{name} would expand to {size:,} bytes; at most {20 * settings.max_upload_bytes:,}")
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{name} row {number}", row.get("id"), row[column]
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{name} cannot be read as Parquet: {reason}") from None


def _expanded(footer: Any) -> int:
    """Bytes that the rows say they take once decompressed.

    Of all columns: asking for the metadata of one ends the process when a damaged footer contradicts itself.
    """
    return sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))


def _or_list() -> str:
    return ", ".join(repr(column) for column in PROMPT_COLUMNS[:-1]) + f" or {PROMPT_COLUMNS[-1]!r}"
