"""WinoGrande: a sentence with a gap and two ways to fill it; ``answer`` counts them from 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.layouts.base import Draft, fixed


def _read(row: Mapping[str, Any]) -> Draft:
    return Draft(row.get("sentence"), [row.get("option1"), row.get("option2")], row.get("answer"))


LAYOUT = fixed(
    "sentence, option1, option2, answer (WinoGrande)",
    ("sentence", "option1", "option2", "answer"),
    "answer",
    ("numbers from 1",),
    _read,
)
