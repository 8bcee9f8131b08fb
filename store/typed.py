"""Convert rows and columns to Arrow columns of the schema's types; refuse by name what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.errors import InvalidDataError
from store.schema import Column, Table

_SCALARS: dict[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "BOOLEAN": pa.bool_(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "SMALLINT": pa.int16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "TIMESTAMP": pa.timestamp("us"),
}


def arrow_type(duckdb_type: str) -> pa.DataType:
    """The Arrow type of a DuckDB type used in the schema, e.g. ``USMALLINT[]`` → ``list<uint16>``."""
    if duckdb_type.endswith("[]"):
        return pa.list_(arrow_type(duckdb_type[:-2]))
    return _SCALARS[duckdb_type]


def arrow_schema(table: Table) -> pa.Schema:
    """The Arrow schema of ``table``, columns in the schema's order."""
    return pa.schema([pa.field(column.name, arrow_type(column.type)) for column in table.columns])


def arrow_table(table: Table, data: pa.Table | Mapping[str, Any], run_id: str | None = None) -> pa.Table:
    """``data`` as Arrow columns of exactly the table's types, strings dictionary-encoded.

    A mapping may hold arrays, sequences, 2-D arrays for list columns, masked arrays, one scalar for a
    constant column, or None for a nullable column without values. ``run_id`` fills that column when it is left out and
    must agree with it when not.
    """
    given = {name: data.column(name) for name in data.column_names} if isinstance(data, pa.Table) else dict(data)
    if run_id is not None:
        given.setdefault("run_id", run_id)
    unknown = sorted(set(given) - set(table.column_names))
    if unknown:
        raise InvalidDataError(
            f"table {table.name} has no column {', '.join(map(repr, unknown))}; it has {', '.join(table.column_names)}"
        )
    missing = [name for name in table.column_names if name not in given]
    if missing:
        raise InvalidDataError(f"table {table.name} needs the column {', '.join(map(repr, missing))} too")
    n_rows = _row_count(table, given)
    columns = [_column(table, column, given[column.name], n_rows) for column in table.columns]
    if run_id is not None:
        others = [value for value in pc.unique(columns[0]).to_pylist() if value != run_id]
        if others:
            raise InvalidDataError(f"table {table.name}, column run_id: {others[0]!r} in a shard of run {run_id!r}")
    return pa.table(dict(zip(table.column_names, columns, strict=True)))


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float | np.generic)


def _row_count(table: Table, given: Mapping[str, Any]) -> int:
    lengths = {name: len(value) for name, value in given.items() if not _is_scalar(value)}
    if not lengths:
        raise InvalidDataError(f"table {table.name}: at least one column must be a sequence")
    first, n_rows = next(iter(lengths.items()))
    for name, length in lengths.items():
        if length != n_rows:
            raise InvalidDataError(
                f"table {table.name}: column {name!r} has {length} rows, column {first!r} has {n_rows}"
            )
    return n_rows


def _column(table: Table, column: Column, value: Any, n_rows: int) -> pa.Array:
    target = arrow_type(column.type)
    try:
        array = _array(value, target, n_rows)
    except (pa.ArrowException, UnicodeError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidDataError(f"table {table.name}, column {column.name!r} must be {column.type}: {reason}") from error
    _refuse_null(table, column, array)
    _refuse_nan(table, column, array)
    return array


def _array(value: Any, target: pa.DataType, n_rows: int) -> pa.Array:
    if _is_scalar(value):
        return _constant(value, target, n_rows)
    if isinstance(value, np.ndarray):
        array = _from_numpy(value, target)
    elif isinstance(value, pa.ChunkedArray):
        array = value.combine_chunks()
    elif isinstance(value, pa.Array):
        array = value
    else:
        items = list(value)
        if items and isinstance(items[0], np.ndarray):
            items = [item.tolist() if isinstance(item, np.ndarray) else item for item in items]
        array = _inferred(items, target)
    if pa.types.is_dictionary(array.type) and not pa.types.is_string(target):
        array = array.dictionary_decode()
    return _cast(array, target)


def _inferred(items: list[Any], target: pa.DataType) -> pa.Array:
    """Return Python values as Arrow finds them, so that a wrong kind is seen before it is converted."""
    try:
        return pa.array(items)
    except OverflowError:
        if target != pa.uint64():
            raise
        return pa.array(items, target)  # Arrow infers signed integers only


def _constant(value: Any, target: pa.DataType, n_rows: int) -> pa.Array:
    if value is None:
        return _encoded(pa.nulls(n_rows, target))
    single = _cast(_inferred([value.item() if isinstance(value, np.generic) else value], target), target)
    if pa.types.is_dictionary(single.type):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n_rows, np.int32)), single.dictionary)
    return pa.repeat(single[0], n_rows)


def _from_numpy(value: np.ndarray, target: pa.DataType) -> pa.Array:
    if value.dtype.kind == "U":
        # Arrow reads Python strings several times faster than fixed-width UCS-4.
        value = value.astype(object)
    if value.ndim == 1:
        if isinstance(value, np.ma.MaskedArray):
            return pa.array(value.data, mask=np.ma.getmaskarray(value))
        if value.dtype == object and pa.types.is_list(target):
            return pa.array([item.tolist() if isinstance(item, np.ndarray) else item for item in value])
        return pa.array(value)
    if value.ndim != 2 or not pa.types.is_list(target):
        raise ValueError(f"got an array of shape {list(value.shape)}")
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        raise ValueError("got masked values inside a list")
    flat = pa.array(np.ascontiguousarray(value).reshape(-1))
    offsets = np.arange(value.shape[0] + 1, dtype=np.int64) * value.shape[1]
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"got {offsets[-1]} values in one shard; at most {np.iinfo(np.int32).max} fit")
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat)


def _kind(arrow: pa.DataType) -> str:
    if pa.types.is_dictionary(arrow):
        return _kind(arrow.value_type)
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow):
        return "text"
    if pa.types.is_integer(arrow):
        return "integer"
    if pa.types.is_floating(arrow):
        return "float"
    if pa.types.is_null(arrow):
        return "null"
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow) or pa.types.is_fixed_size_list(arrow):
        return "list"
    return str(arrow)


def _cast(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Cast ``array`` to ``target`` where nothing but float precision can be lost; refuse a different kind."""
    have, want = _kind(array.type), _kind(target)
    if have != want and have != "null" and not (have == "integer" and want == "float"):
        if have.startswith("timestamp") and want.startswith("timestamp"):
            return array.cast(target)
        raise ValueError(f"got {array.type}")
    if want == "list" and have == "list":
        array = array.cast(pa.list_(array.type.value_type)) if not pa.types.is_list(array.type) else array
        values = _decoded(_cast(array.flatten(), target.value_type))
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        mask = array.is_null() if array.null_count else None
        return pa.ListArray.from_arrays(offsets, values, mask=mask)
    if want == "text":
        return _encoded(array.cast(target) if have == "null" else array)
    return array.cast(target)


def _encoded(array: pa.Array) -> pa.Array:
    """Strings as dictionary codes in order of appearance, so that equal rows give equal bytes."""
    return _decoded(array).cast(pa.string()).dictionary_encode() if _kind(array.type) == "text" else array


def _decoded(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _refuse_null(table: Table, column: Column, array: pa.Array) -> None:
    if array.null_count and not column.nullable:
        row = pc.index(array.is_null(), True).as_py()
        raise InvalidDataError(
            f"table {table.name}, column {column.name!r}: row {row} is NULL, but every row needs a value"
        )
    if pa.types.is_list(array.type) and array.flatten().null_count:
        raise InvalidDataError(f"table {table.name}, column {column.name!r}: a list holds NULL")


def _refuse_nan(table: Table, column: Column, array: pa.Array) -> None:
    values = array.flatten() if pa.types.is_list(array.type) else array
    if not pa.types.is_floating(values.type) or not len(values):
        return
    finite = pc.is_finite(values)
    if pc.all(finite, min_count=0).as_py() is False:
        bad = values.filter(pc.invert(finite))[0].as_py()
        raise InvalidDataError(
            f"table {table.name}, column {column.name!r}: {bad} is not a number that can be stored; "
            "use NULL for 'not applicable'"
        )


def rows_to_columns(table: Table, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Row dictionaries as columns in the schema's order; a key that is left out reads as NULL."""
    return {name: [row.get(name) for row in rows] for name in table.column_names}
