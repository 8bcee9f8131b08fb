"""Safetensors files that a stranger may have written: the header is checked in full before any tensor is made.

A file is ``<8 bytes: n><n bytes: JSON header><tensors>``; the header maps each name to dtype, shape and the place of
its bytes. What the library itself tolerates is refused too: names given twice (the last would win), bytes that two
tensors share or none uses, headers of absurd size.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 24 * 2**20  # bytes; a model of 100,000 tensors needs about 15 MB
_MAX_DIMENSIONS = 32
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
}  # fmt: skip
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


def load_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checked file, on the CPU; raises ``SafetensorError`` saying what is wrong with it."""
    from safetensors import torch

    check(path)
    return dict(torch.load_file(path))


def check(path: str | os.PathLike[str]) -> int:
    """The number of values in a safetensors file; raises ``SafetensorError`` unless its header is sound."""
    return sum(map(math.prod, shapes(path).values()))


def shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by name; raise ``SafetensorError`` unless the header is sound."""
    return {name: tuple(entry["shape"]) for name, entry in entries(path).items()}


def entries(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Return dtype, shape and place of each tensor by name; raise ``SafetensorError`` unless the header is sound."""
    size = os.path.getsize(path)
    with Path(path).open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > size - 8:
            if first.startswith(_PICKLES):  # a sound file may begin so as well, if its header has just that length
                raise SafetensorError("it is a pickle, which may run code when read; only safetensors are read")
            raise SafetensorError("it is cut short or not a safetensors file")
        if length > MAX_HEADER:
            raise SafetensorError(f"its header claims {length} bytes, more than {MAX_HEADER}")
        text = file.read(length)
    header = _parsed(text)
    _check_header(header, size - 8 - length)
    return header


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except SafetensorError:
        raise
    except (ValueError, RecursionError):
        raise SafetensorError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise SafetensorError("its header is not a JSON object")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise SafetensorError("its header gives a name twice")
    return found


def _check_header(header: dict[str, Any], data: int) -> None:
    """Refuse tensors that do not fill the ``data`` bytes after the header one by one; takes the metadata out."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SafetensorError("its metadata is not text")
    end = 0
    for start, stop, name in sorted(_place(name, entry) for name, entry in header.items()):
        if start != end:
            raise SafetensorError(f"tensor {name[:80]!r} overlaps another or leaves a gap")
        end = stop
    if end != data:
        raise SafetensorError(f"its tensors take {end} bytes, the file has {data}")


def _place(name: str, entry: Any) -> tuple[int, int, str]:
    """``(first byte, byte after the last, name)`` of one tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise SafetensorError(f"the entry of tensor {name[:80]!r} is malformed")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _sizes(shape) or len(shape) > _MAX_DIMENSIONS or not _sizes(offsets) or len(offsets) != 2:
        raise SafetensorError(f"shape or place of tensor {name[:80]!r} is malformed")
    bits = _BITS.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if bits is None:
        raise SafetensorError(f"tensor {name[:80]!r} has an unknown type")
    count = math.prod(shape)
    if (offsets[1] - offsets[0]) * 8 != count * bits:
        raise SafetensorError(f"tensor {name[:80]!r} takes other bytes than its shape needs")
    return offsets[0], offsets[1], name


def _sizes(value: Any) -> bool:
    """Whether ``value`` is a list of sizes: whole numbers from 0 that fit 63 bits."""
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)
