"""Length-matched control of OoD detection: does a score notice foreign questions, or only longer prompts?

The rows are those of the run where it stored them, else computed here by the same rule; no Streamlit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from app.figures.auroc import OOD_ROLES
from vmoer import metrics

ALL, MATCHED, LENGTH = "all questions", "length-matched questions", "prompt length as the score"
#: what the pipeline appends to a score's name, and the score that is nothing but length
SUFFIX, LENGTH_SCORE = " (length-matched)", "prompt_length"
COLUMNS = ["dataset", "role", "what", "value", "ci_low", "ci_high", "n"]


def stored_control(auroc: pd.DataFrame, score: str, position: str, aggregation: str) -> pd.DataFrame:
    """The control as the run stored it, from its AUROC rows (with ``role``); empty where it stored no matched value."""
    here = (auroc["position_rule"] == position) & (auroc["aggregation"] == aggregation)
    parts = [
        auroc[here & (auroc["score"] == score)].assign(what=ALL),
        auroc[here & (auroc["score"] == score + SUFFIX)].assign(what=MATCHED),
        auroc[auroc["score"] == LENGTH_SCORE].assign(what=LENGTH),
    ]
    if parts[1].empty:
        return pd.DataFrame(columns=COLUMNS)
    rows = pd.concat(parts, ignore_index=True)
    return rows[rows["role"].isin(OOD_ROLES) & rows["value"].notna()][COLUMNS].reset_index(drop=True)


def length_control(scores: pd.DataFrame, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """AUROC per OoD set on all questions, on matched ones, and of the prompt length itself, with 95 % intervals.

    ``scores``: columns dataset, role, value, n_tokens. The match is :func:`vmoer.metrics.length_matched`.
    """
    inside = scores[scores["role"] == "in-distribution"]
    rows: list[dict[str, Any]] = []
    for (dataset, role), group in scores[scores["role"].isin(OOD_ROLES)].groupby(["dataset", "role"], sort=False):
        if inside.empty:
            break
        places = metrics.length_matched(inside["n_tokens"].to_numpy(), group["n_tokens"].to_numpy())
        pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {
            ALL: (inside["value"].to_numpy(dtype=float), group["value"].to_numpy(dtype=float)),
            LENGTH: (inside["n_tokens"].to_numpy(dtype=float), group["n_tokens"].to_numpy(dtype=float)),
        }
        pairs[MATCHED] = (pairs[ALL][0][places[0]], pairs[ALL][1][places[1]])
        for what in (ALL, MATCHED, LENGTH):
            known, foreign = pairs[what]
            if not min(len(known), len(foreign)):
                continue
            found = metrics.ood_metrics(known, foreign, score=what, n_resamples=n_resamples, seed=seed)
            auroc = next(item for item in found if item.metric == "auroc")
            ends = (auroc.value, auroc.ci_low, auroc.ci_high)
            rows.append(dict(zip(COLUMNS, (dataset, role, what, *ends, len(known) + len(foreign)), strict=True)))
    return pd.DataFrame(rows, columns=COLUMNS)
