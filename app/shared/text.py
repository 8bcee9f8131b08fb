"""Text from outside (file names, links, error messages) made safe to stand in Markdown."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-!|~$:.&=^])")


def plain(text: object) -> str:
    """``text`` as it is, whatever Markdown would make of it: no links, images, formulas or icons."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def prose(text: object) -> str:
    """Like :func:`plain`, but what stands between two backticks is set as code: the commands that messages name."""
    parts = str(text).split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    spans = [f"`{part}`" if place % 2 else _SPECIAL.sub(r"\\\1", part) for place, part in enumerate(parts)]
    return " ".join("".join(spans).replace("``", "").split())


def sentence(text: str) -> str:
    """An error's message as a sentence of its own."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ")")) else ".")


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 row``, ``2,000 rows``; ``plural`` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
