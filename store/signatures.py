"""Checksums of JSON files and lines: what was written can be told from what a damaged disk gives back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

#: the key under which an object holds the checksum of all its others
KEY = "sha256"


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value in one canonical form: keys sorted, no spaces, ASCII."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def signed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object with the checksum of its other keys."""
    return {**values, KEY: digest({key: value for key, value in values.items() if key != KEY})}


def intact(values: Mapping[str, Any]) -> bool:
    """Whether an object has no checksum (it was written before there were any) or the right one."""
    return KEY not in values or signed(values)[KEY] == values[KEY]


def signed_line(text: str) -> str:
    """Return a word with its checksum behind it."""
    return f"{text} {digest(text)[:16]}"


def word_of(line: str) -> str | None:
    """Return the word of :func:`signed_line`, or one that stands alone as before; ``None`` where they do not fit."""
    word, _, given = line.partition(" ")
    return word if not given or line == signed_line(word) else None
