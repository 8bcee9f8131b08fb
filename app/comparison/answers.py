"""The questions that two runs share."""

from __future__ import annotations

import pandas as pd

from app.comparison import paired_answers as pairs
from app.figures.auroc import by_role
from app.shared.page import Page


def paired(page: Page, first: str, second: str) -> pd.DataFrame:
    """Return the questions that both runs answered, with ``outcome``; in-distribution sets first."""
    rows = page.data("paired_predictions", first, second)
    rows = rows.sort_values(["role", "dataset"], key=by_role, kind="stable").reset_index(drop=True)
    right = zip(rows["correct_a"].astype(bool), rows["correct_b"].astype(bool), strict=True)
    return rows.assign(outcome=[pairs.outcome(a, b) for a, b in right])
