"""Rows of a Parquet file, read in small batches, of the columns that are asked for and of types that are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from pipelines.data.rows import Limits, Row, Rows, column_names
from pipelines.errors import DataError

MAGIC = b"PAR1"
#: rows decoded at once: one of a stranger's file, where a row of 700 bytes may unpack to a megabyte
_BATCH, _BATCH_OF_STRANGERS = 256, 1
_SIMPLE = (
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    types.is_integer,
    types.is_floating,
    types.is_boolean,
    types.is_null,
)


def parquet_rows(source: bytes | Path, limits: Limits, name: str) -> Rows:
    """Return the rows of a Parquet file by its bytes or path; with a limit on rows the footer must keep to it.

    Rows are counted from 0. Dates, durations, binary values and the like are refused by column and type.
    """
    with _opened(source, name) as file:
        columns = column_names(file.schema_arrow.names, name)
        footer = file.metadata
        if limits.rows is not None:
            if footer.num_rows > limits.rows:
                raise DataError(f"{name} has {footer.num_rows:,} prompts; at most {limits.rows:,} are allowed")
            size = _expanded(footer)
            if size > limits.unpacked:
                raise DataError(f"{name} would expand to {size:,} bytes; at most {limits.unpacked:,} are allowed")

    def read(wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
        asked = {columns[column]: column for column in wanted if column in columns}
        with _opened(source, name) as file:
            for given in asked:
                kind = file.schema_arrow.field(given).type
                if not _known(kind):
                    shown = f"{given[:80]!r} holds {str(kind)[:80]}"
                    raise DataError(f"{name}: column {shown}; give text, numbers or lists")
            number = 0
            size = _BATCH if limits.rows is None else _BATCH_OF_STRANGERS
            for batch in file.iter_batches(batch_size=size, columns=list(asked), use_threads=False):
                if limits.rows is not None and batch.nbytes > limits.unpacked:
                    raise DataError(f"{name} expands to more than {limits.unpacked:,} bytes, the most that are allowed")
                for values in batch.to_pylist():
                    yield f"{name} row {number}", {asked[given]: value for given, value in values.items()}
                    number += 1

    return Rows("Parquet", tuple(columns), read)


@contextmanager
def _opened(source: bytes | Path, name: str) -> Iterator[Any]:
    try:
        with pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source) as file:
            yield file
    except MemoryError:
        raise DataError(f"{name} needs more memory to be read than there is") from None
    except (pa.ArrowException, UnicodeDecodeError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{name} cannot be read as Parquet: {reason}") from None
    except OSError as error:
        if error.strerror:
            raise DataError(f"cannot read {name}: {error.strerror}") from None
        reason = (str(error).splitlines() or ["damaged file"])[0][:200]
        raise DataError(f"{name} cannot be read as Parquet: {reason}") from None


def _known(kind: Any) -> bool:
    """Whether values of this Arrow type are text, numbers, or lists and records of them."""
    if types.is_dictionary(kind):
        return _known(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _known(kind.value_type)
    if types.is_struct(kind):
        return all(_known(field.type) for field in kind)
    return any(check(kind) for check in _SIMPLE)


def _expanded(footer: Any) -> int:
    """Bytes that the rows say they take once decompressed.

    Of all columns: asking for the metadata of one ends the process when a damaged footer contradicts itself.
    """
    return sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
