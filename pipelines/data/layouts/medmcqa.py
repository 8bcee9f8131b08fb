"""MedMCQA: options in ``opa`` to ``opd``; ``cop`` counts from 0 on the hub and from 1 in the published files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.layouts.base import Draft, fixed

_OPTIONS = ("opa", "opb", "opc", "opd")


def _read(row: Mapping[str, Any]) -> Draft:
    return Draft(row.get("question"), [row.get(column) for column in _OPTIONS], row.get("cop"))


LAYOUT = fixed(
    "question, opa to opd, cop (MedMCQA)",
    ("question", *_OPTIONS, "cop"),
    "cop",
    ("numbers from 0", "numbers from 1"),
    _read,
    subject=("subject", "subject_name"),
)
