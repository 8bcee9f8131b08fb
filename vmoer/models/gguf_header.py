"""Read the header of a GGUF file once, where it can do no harm."""

from __future__ import annotations

from gguf import GGUFReader


def count(content: bytes, path: str) -> int:
    """Return how many fields and tensors a GGUF file has; damaged ones raise what the reader raises."""
    del content
    reader = GGUFReader(path)
    return len(reader.fields) + len(reader.tensors)
