"""Prompts in a file that was uploaded: read like every other file, within the limits for strangers.

Nothing in a file is run, and every cap is checked before what it bounds. What a cap cannot see (a footer that lies)
ends a process of its own, in which uploads are read (:mod:`vmoer.confined`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from pipelines.data.files import rows_of
from pipelines.data.prompts import likelihood_prompt
from pipelines.data.reading import Item, Reading, limits_of_upload, read_items
from pipelines.errors import DataError
from pipelines.settings import Settings
from vmoer.confined import ConfinedError, confined

_READING = TypeAdapter(Reading)


@dataclass(frozen=True)
class Prompt:
    """One prompt; ``id`` is the file's own or its number from ``p00001``."""

    id: str
    text: str


def read_upload(content: bytes, settings: Settings, name: str = "the file", called: str | None = None) -> Reading:
    """Return what a file holds, read in a process of its own; :class:`DataError` when it cannot be used at all.

    ``name`` stands in messages, ``called`` is the file's own name.
    """
    if len(content) > settings.max_upload_bytes:
        raise DataError(f"{name} has {len(content):,} bytes; at most {settings.max_upload_bytes:,} are allowed")
    caps = {cap: getattr(settings, cap) for cap in ("max_upload_bytes", "max_upload_prompts", "max_prompt_chars")}
    try:
        value = confined(
            "pipelines.data.prompt_files:read_confined",
            content,
            {"caps": caps, "name": name, "called": called},
            refusals=(DataError,),
        )
    except ConfinedError as error:
        raise DataError(f"{name} {error.why}; give fewer or shorter prompts, as text, CSV or JSON lines") from None
    return _READING.validate_python(value)


def read_confined(content: bytes, caps: dict[str, int], name: str, called: str | None) -> Any:
    """Return :func:`read_here` as JSON values: what runs in the process of :func:`read_upload`."""
    limits = replace(Settings(), **caps)  # type: ignore[arg-type]  # by name
    return _READING.dump_python(read_here(content, limits, name, called), mode="json")


def read_here(content: bytes, settings: Settings, name: str = "the file", called: str | None = None) -> Reading:
    """Return what a file holds, read in this process: for files that the user of this process has made."""
    limits = limits_of_upload(settings)
    reading = read_items(rows_of(content, limits, name, called), name, settings, limits)
    if not reading.items and not reading.refused:
        raise DataError(f"{name} has no prompts")
    return reading


def parse_prompts(content: bytes, settings: Settings, name: str = "the file") -> list[Prompt]:
    """Return the prompts in a file; :class:`DataError` names the first place that is wrong.

    Questions with options become the prompts that the model reads before an option.
    """
    return prompts_of(read_here(content, settings, name).accepted())


def prompts_of(items: Iterable[Item]) -> list[Prompt]:
    """Return items as the model reads them: a prompt as it is, a question with ``Question:`` and ``Answer:``."""
    return [Prompt(item.id, likelihood_prompt(item.question) if item.choices else item.question) for item in items]
