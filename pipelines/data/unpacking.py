"""Bytes as they arrive to bytes or text that can be parsed: gzip and zstandard, UTF-8 and UTF-16."""

from __future__ import annotations

import codecs

import pyarrow as pa

from pipelines.errors import DataError

#: first bytes of what is unpacked here → ``(Arrow's name of it, what to call it)``
_PACKED = {b"\x1f\x8b": ("gzip", "a gzip archive"), b"\x28\xb5\x2f\xfd": ("zstd", "a zstandard archive")}
#: first bytes of files that are something else and would be read as nonsense
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive (an Excel workbook is one)",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"%PDF": "a PDF",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x89PNG": "a picture",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Office document",
}
# UTF-32 first: its little-endian mark begins with that of UTF-16
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_STEP = 1 << 20


def unpacked(content: bytes, most: int, name: str) -> bytes:
    """Return the bytes inside a gzip or zstandard file, or ``content`` itself; never more than ``most`` are made."""
    packing = next((found for start, found in _PACKED.items() if content.startswith(start)), None)
    if packing is None:
        return content
    codec, what = packing
    parts: list[bytes] = []
    size = 0
    try:
        with pa.CompressedInputStream(pa.BufferReader(content), codec) as stream:
            while part := stream.read(_STEP):
                size += len(part)
                if size > most:
                    raise DataError(f"{name} unpacks to more than {most:,} bytes, the most that are allowed")
                parts.append(part)
    except (pa.ArrowException, OSError):
        raise DataError(f"{name} is {what} that cannot be unpacked: it is damaged or cut off") from None
    return b"".join(parts)


def refuse_other_kinds(content: bytes, name: str) -> None:
    """Refuse by its first bytes a file that is neither text nor Parquet."""
    kind = next((kind for start, kind in _OTHER_KINDS.items() if content.startswith(start)), None)
    if kind is not None:
        raise DataError(f"{name} is {kind}; give prompts as UTF-8 text, CSV, JSON, JSON lines or Parquet")


def decoded(content: bytes, name: str) -> str:
    """Return the text of a file; UTF-16 and UTF-32 are known by their mark, anything else must be UTF-8."""
    encoding, shown = next(
        ((encoding, shown) for mark, encoding, shown in _MARKS if content.startswith(mark)), ("utf-8-sig", "UTF-8")
    )
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        hint = "" if shown != "UTF-8" else " and not Parquet; save it as UTF-8 (in Excel: CSV UTF-8)"
        raise DataError(f"{name} is not {shown} text (byte {error.start:,}){hint}") from None
