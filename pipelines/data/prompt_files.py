"""Prompts in a file that was uploaded: read like every other file, within the limits for strangers.

Nothing in a file is run, and nothing of unknown size is expanded: every cap is checked before what it bounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.data.files import rows_of
from pipelines.data.prompts import likelihood_prompt
from pipelines.data.reading import Item, Reading, limits_of_upload, read_items
from pipelines.errors import DataError
from pipelines.settings import Settings


@dataclass(frozen=True)
class Prompt:
    """One prompt; ``id`` is the file's own or its number from ``p00001``."""

    id: str
    text: str


def read_upload(content: bytes, settings: Settings, name: str = "the file", called: str | None = None) -> Reading:
    """Return what a file holds; :class:`DataError` when it cannot be used at all.

    ``name`` stands in messages, ``called`` is the file's own name.
    """
    limits = limits_of_upload(settings)
    reading = read_items(rows_of(content, limits, name, called), name, settings, limits)
    if not reading.items and not reading.refused:
        raise DataError(f"{name} has no prompts")
    return reading


def parse_prompts(content: bytes, settings: Settings, name: str = "the file") -> list[Prompt]:
    """Return the prompts in a file; :class:`DataError` names the first place that is wrong.

    Questions with options become the prompts that the model reads before an option.
    """
    return prompts_of(read_upload(content, settings, name).accepted())


def prompts_of(items: Iterable[Item]) -> list[Prompt]:
    """Return items as the model reads them: a prompt as it is, a question with ``Question:`` and ``Answer:``."""
    return [Prompt(item.id, likelihood_prompt(item.question) if item.choices else item.question) for item in items]
