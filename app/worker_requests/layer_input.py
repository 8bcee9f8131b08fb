"""Layers as a reader types them."""

from __future__ import annotations


def layers_of(text: str) -> str | list[int] | None:
    """Layers as a request wants them from what was typed: nothing, a rule, or indices such as ``3, 4``."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        return None
    return [int(part) for part in parts] if all(part.isascii() and part.isdigit() for part in parts) else text.strip()
