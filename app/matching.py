"""Length-matched control of OoD detection: does a score notice foreign questions, or only longer prompts?

Within each class of prompt length as many in-distribution as OoD questions are kept, drawn with a seed; what still
tells the two apart is then not their length. No Streamlit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from app.charts.ood import OOD_ROLES
from vmoer import metrics

ALL, MATCHED, LENGTH = "all questions", "length-matched questions", "prompt length as the score"
_WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128)


def matched(inside: pd.DataFrame, outside: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Equally many questions of both sets in every class of ``n_tokens``, and the width of a class in tokens.

    The width is the smallest power of two that keeps half of the smaller set; 128 at most.
    """
    smaller = min(len(inside), len(outside))
    width = _WIDTHS[-1]
    for candidate in _WIDTHS:
        counts = [frame["n_tokens"].floordiv(candidate).value_counts() for frame in (inside, outside)]
        if 2 * np.minimum(*counts[0].align(counts[1], fill_value=0)).sum() >= smaller:
            width = candidate
            break
    generator = np.random.default_rng(seed)
    kept: list[list[int]] = [[], []]
    groups = [frame.groupby(frame["n_tokens"].floordiv(width)).indices for frame in (inside, outside)]
    for key in sorted(set(groups[0]) & set(groups[1]), key=str):
        count = min(len(groups[0][key]), len(groups[1][key]))
        for place, group in enumerate(groups):
            kept[place] += generator.choice(group[key], count, replace=False).tolist()
    return inside.iloc[sorted(kept[0])], outside.iloc[sorted(kept[1])], width


def length_control(scores: pd.DataFrame, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """AUROC per OoD set on all questions, on matched ones, and of the prompt length itself, with 95 % intervals.

    ``scores``: columns dataset, role, value, n_tokens. Returns dataset, role, what, value, ci_low, ci_high, n (both
    sets), width (tokens per class of length).
    """
    inside = scores[scores["role"] == "in-distribution"]
    rows: list[dict[str, Any]] = []
    for (dataset, role), group in scores[scores["role"].isin(OOD_ROLES)].groupby(["dataset", "role"], sort=False):
        if inside.empty:
            break
        one, other, width = matched(inside, group, seed)
        for what, column, pair in (
            (ALL, "value", (inside, group)),
            (MATCHED, "value", (one, other)),
            (LENGTH, "n_tokens", (inside, group)),
        ):
            values = [frame[column].to_numpy(dtype=float) for frame in pair]
            if not min(map(len, values)):
                continue
            found = metrics.ood_metrics(
                values[0],
                values[1],
                score=what,
                position_rule="none",
                aggregation="none",
                n_resamples=n_resamples,
                seed=seed,
            )
            auroc = next(item for item in found if item.metric == "auroc")
            rows.append(
                {
                    "dataset": dataset,
                    "role": role,
                    "what": what,
                    "value": auroc.value,
                    "ci_low": auroc.ci_low,
                    "ci_high": auroc.ci_high,
                    "n": len(values[0]) + len(values[1]),
                    "width": width,
                }
            )
    return pd.DataFrame(rows, columns=["dataset", "role", "what", "value", "ci_low", "ci_high", "n", "width"])
