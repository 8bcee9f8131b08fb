"""What an AUROC says: the score with where it was read, and whether it is above chance or inverted; no Streamlit."""

from __future__ import annotations

import pandas as pd

from app.charts.ood import OOD_ROLES
from app.palette import ROLE_LABELS

POSITIONS = {"answer": "answer", "final_prompt_token": "last token", "prompt_mean": "prompt mean"}
INVERTED = "INVERTED"
_SCORES = {"one_minus_max_prob": "1 − largest probability", "logit_variance_mc": "MC logit variance"}


def score_name(score: str) -> str:
    """A score as pages call it."""
    return _SCORES.get(score, score.replace("_", " "))


def score_label(score: str, position: str, aggregation: str) -> str:
    """A score, as pages call it, with where it was read."""
    where = [] if position == "answer" else [POSITIONS.get(position, position)]
    where += [] if aggregation in ("none", "mean_layers") else [aggregation]
    return score_name(score) if not where else f"{score_name(score)} ({', '.join(where)})"


def verdict(value: float, low: float | None, high: float | None) -> str:
    """What an AUROC says: inverted, better than chance, or not told apart from chance."""
    if value < 0.5:
        return INVERTED if high is not None and high < 0.5 else f"{INVERTED} (interval holds 0.5)"
    return "above chance" if low is not None and low > 0.5 else "not told apart from chance"


def auroc_rows(metrics: pd.DataFrame, roles: pd.Series) -> pd.DataFrame:
    """AUROC rows of one run's ``metrics`` with role, label and verdict; ``roles`` maps data sets to their role."""
    rows = metrics[metrics["metric"] == "auroc"].copy()
    rows["role"] = rows["dataset"].map(roles)
    rows = rows[rows["role"].isin(OOD_ROLES) & rows["value"].notna()].reset_index(drop=True)
    keys = zip(rows["score"], rows["position_rule"], rows["aggregation"], strict=True)
    rows["label"] = [score_label(*key) for key in keys]
    bounds = zip(rows["value"], rows["ci_low"], rows["ci_high"], strict=True)
    rows["verdict"] = [verdict(*bound) for bound in bounds]
    return rows.sort_values(["role", "dataset"], key=by_role, kind="stable").reset_index(drop=True)


def by_role(column: pd.Series) -> pd.Series:
    """Roles in their own order, names by the alphabet; a sort key."""
    return column.map(list(ROLE_LABELS).index) if column.name == "role" else column
