"""One door for bytes and files: what kind of file it is, told by what is inside, and its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.data.delimited import delimited_rows
from pipelines.data.jsonrows import json_rows, text_lines
from pipelines.data.layouts import layout_of
from pipelines.data.parquet import MAGIC, parquet_rows
from pipelines.data.rows import Limits, Row, Rows
from pipelines.data.unpacking import decoded, refuse_other_kinds, unpacked
from pipelines.errors import DataError

#: what a file of questions or prompts may be called
SUFFIXES = ("txt", "csv", "tsv", "json", "jsonl", "ndjson", "parquet", "gz", "zst")
#: those of them that a folder of question files is searched for
DATA_SUFFIXES = ("parquet", "json", "jsonl", "ndjson", "csv", "tsv")
_PACKED = ("gz", "gzip", "zst", "zstd")


def stem_and_suffix(name: str) -> tuple[str, str]:
    """Split a file's name into what to call its questions and what it says it holds, without ``.gz`` or ``.zst``."""
    path = Path(name)
    if path.suffix[1:].lower() in _PACKED:
        path = path.with_suffix("")
    return path.stem, path.suffix[1:].lower()


def rows_of_file(path: Path, limits: Limits) -> Rows:
    """Return the rows of a file; one of more than ``limits.stored`` bytes is refused unless it is Parquet."""
    try:
        with path.open("rb") as handle:
            start = handle.read(len(MAGIC))
            if start == MAGIC:
                return parquet_rows(path, limits, path.name)
            size = path.stat().st_size
            if size > limits.stored:
                raise DataError(f"{path.name} has {size:,} bytes; at most {limits.stored:,} are allowed")
            content = start + handle.read(limits.stored)
    except OSError as error:
        raise DataError(f"cannot read {path.name}: {error.strerror or 'damaged file'}") from None
    return rows_of(content, limits, path.name)


def rows_of(content: bytes, limits: Limits, name: str, called: str | None = None) -> Rows:
    """Return the rows of a file's bytes; ``called`` is its name where messages say something else."""
    if len(content) > limits.stored:
        raise DataError(f"{name} has {len(content):,} bytes; at most {limits.stored:,} are allowed")
    _, suffix = stem_and_suffix(called or name)
    content = unpacked(content, limits.unpacked, name)
    if content.startswith(MAGIC):
        return parquet_rows(content, limits, name)
    if suffix == "parquet":
        raise DataError(f"{name} is not a Parquet file")
    refuse_other_kinds(content, name)
    text = decoded(content, name)
    if not text.strip():
        raise DataError(f"{name} has no prompts")
    if (at := text.find("\0")) >= 0:
        raise DataError(f"{name} line {text.count(chr(10), 0, at) + 1} holds a NUL character")
    if text.lstrip()[:5].lower() in ("<?xml", "<!doc", "<html"):
        raise DataError(f"{name} is XML or HTML; give text, CSV, JSON, JSON lines or Parquet")
    found = json_rows(text, limits, name, suffix)
    if found is None:
        found = delimited_rows(text, name, suffix, lambda columns: layout_of(columns) is not None)
    return _lines(text, name) if found is None else found


def _lines(text: str, name: str) -> Rows:
    def read(wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
        yield from ((f"{name} line {number}", {"prompt": line}) for number, line in text_lines(text) if line.strip())

    return Rows("text", ("prompt",), read, lines=True)
