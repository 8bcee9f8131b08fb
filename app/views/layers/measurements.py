"""Per-layer measurements that the runs of an experiment share, and the words that say where a figure comes from."""

from __future__ import annotations

from typing import Any, TypeAlias

import pandas as pd

from app.shared import runs as run_names
from app.shared.page import Page

#: the run that was measured, and the rows
Measured: TypeAlias = tuple[str, pd.DataFrame]


def measured_on(page: Page, run_id: str, query: str, **options: Any) -> Measured:
    """Rows of a per-layer query for the run, else for its experiment's deterministic run (the page says which)."""
    candidates = [run_id]
    baseline = run_names.deterministic_of(page.runs, run_id)
    if baseline not in (None, run_id):
        candidates.append(str(baseline))
    rows = page.data(query, run_ids=tuple(candidates), **options)
    for candidate in candidates:
        found = rows[rows["run_id"] == candidate]
        if not found.empty:
            return candidate, found.reset_index(drop=True)
    return run_id, rows


def source_note(page: Page, run_id: str, source: str) -> str:
    """What a figure's note adds where it was measured on the deterministic run."""
    if source == run_id:
        return ""
    return (
        f" Measured on {page.label(source)}: the test perturbs the native routers, so the runs of one experiment "
        "share it."
    )
