"""Two runs on the same questions: what is shared, what became of the answers, what the difference is; no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from app.figures.paired import OUTCOMES
from app.figures.verdict import BETTER, WORSE, verdict
from vmoer import metrics

DIFFERENCES = ("accuracy", "ece", "nll", "brier")


def outcome(first_right: bool, second_right: bool) -> str:
    """What became of an answer from the first run to the second."""
    if first_right:
        return OUTCOMES[0] if second_right else OUTCOMES[2]
    return OUTCOMES[1] if second_right else OUTCOMES[3]


def flip_counts(paired: pd.DataFrame) -> pd.DataFrame:
    """Questions per data set and outcome, zero counts included."""
    rows = []
    for dataset, group in paired.groupby("dataset", sort=False):
        counts = group["outcome"].value_counts()
        for name in OUTCOMES:
            count = int(counts.get(name, 0))
            rows.append((dataset, name, count, count / len(group), len(group)))
    return pd.DataFrame(rows, columns=["dataset", "outcome", "count", "share", "n"])


def with_verdicts(differences: pd.DataFrame, datasets: Sequence[str]) -> pd.DataFrame:
    """The paired differences on ``datasets``, in their order, each with its verdict."""
    rows = differences[differences["dataset"].isin(datasets)]
    rows = rows.sort_values("dataset", key=lambda names: names.map(list(datasets).index), kind="stable")
    ends = zip(rows["ci_low"], rows["ci_high"], rows["direction"], strict=True)
    return rows.assign(verdict=[verdict(*one) for one in ends]).reset_index(drop=True)


def in_words(differences: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """What the intervals of :func:`with_verdicts` settle: where the second run is better, and where it is worse."""
    said = []
    for name, value in (("better", BETTER), ("worse", WORSE)):
        rows = differences[differences["verdict"] == value]
        found = [
            f"{title} on {', '.join(rows.loc[rows['metric'] == metric, 'dataset'])}"
            for metric, title in titles.items()
            if (rows["metric"] == metric).any()
        ]
        if found:
            said.append(f"the second run is {name} in {'; '.join(found)}")
    return ". ".join(one[:1].upper() + one[1:] for one in said) or "No interval excludes zero"


def computed_differences(paired: pd.DataFrame, n_resamples: int) -> pd.DataFrame:
    """Paired differences (second − first) with 95 % intervals, one row per data set and metric."""
    rows: list[dict[str, Any]] = []
    for dataset, group in paired.groupby("dataset", sort=False):
        found = metrics.paired_comparison(
            group["probs_b"].tolist(),
            group["probs_a"].tolist(),
            group["answer_index"].to_numpy(),
            n_resamples=n_resamples,
        )
        for one in found:
            if one.metric in DIFFERENCES:
                rows.append(
                    {
                        "dataset": dataset,
                        "metric": one.metric,
                        "difference": one.difference,
                        "ci_low": one.ci_low,
                        "ci_high": one.ci_high,
                        "n": one.n,
                        "direction": one.direction,
                    }
                )
    return pd.DataFrame(rows, columns=["dataset", "metric", "difference", "ci_low", "ci_high", "n", "direction"])


def experts_changed(first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
    """Experts that the second set gained and lost against the first."""
    a, b = {int(one) for one in first}, {int(one) for one in second}
    return sorted(b - a), sorted(a - b)


def shared_note(n_first: int, n_second: int, n_shared: int) -> str:
    """How many questions both runs answered, and what was left out."""
    if n_first == n_second == n_shared:
        return f"Both runs answered the same {n_shared:,} questions."
    return (
        f"Only the {n_shared:,} questions that both runs answered are compared: the first run has {n_first:,}, "
        f"the second {n_second:,}."
    )
