"""PIQA: a goal and two ways to reach it; ``label`` counts them from 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.layouts.base import Draft, fixed


def _read(row: Mapping[str, Any]) -> Draft:
    return Draft(row.get("goal"), [row.get("sol1"), row.get("sol2")], row.get("label"))


LAYOUT = fixed("goal, sol1, sol2, label (PIQA)", ("goal", "sol1", "sol2", "label"), "label", ("numbers from 0",), _read)
