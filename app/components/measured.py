"""Per-layer measurements that the runs of an experiment share, and the words that say where a figure comes from."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import runs as run_names
from app.components.page import Page
from app.components.text import plain


def measured_on(page: Page, run_id: str, query: str, **options: Any) -> tuple[str, pd.DataFrame]:
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


def say_source(page: Page, run_id: str, source: str) -> None:
    """Say so where a figure was measured on the deterministic run."""
    if source != run_id:
        st.caption(
            f"Measured on {plain(page.label(source))}: the test perturbs the native routers, so the runs of one "
            "experiment share it."
        )
