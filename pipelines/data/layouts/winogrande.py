"""WinoGrande: a sentence with a gap and two ways to fill it; ``answer`` counts them from 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.layouts.base import Draft, RowError, fixed


def _read(row: Mapping[str, Any]) -> Draft:
    sentence = row.get("sentence")
    if isinstance(sentence, str) and "_" not in sentence:
        raise RowError("sentence", "sentence has no gap; an underscore must stand where the options go")
    return Draft(sentence, [row.get("option1"), row.get("option2")], row.get("answer"))


LAYOUT = fixed(
    "sentence, option1, option2, answer (WinoGrande)",
    ("sentence", "option1", "option2", "answer"),
    "answer",
    ("numbers from 1",),
    _read,
)
