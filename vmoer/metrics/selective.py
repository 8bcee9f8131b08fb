"""Selective prediction: does the uncertainty say which answers are wrong?

Answers are accepted in order of rising uncertainty. Answers that tie cannot be told apart, so within a tie the risk is
the expectation over random orders; no result depends on how the examples happen to be sorted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vmoer.metrics._inputs import Booleans, Floats, Integers, as_flags, as_scores
from vmoer.metrics.calibration import dense_rank, row_counts, row_sums
from vmoer.metrics.ood import auroc


def error_auroc(uncertainty: ArrayLike, wrong: ArrayLike) -> float | None:
    """Probability that a wrong answer is more uncertain than a right one, ties counting half; 0 to 1.

    ``None`` when all answers are right, or all are wrong.
    """
    scores, errors = _inputs(uncertainty, wrong)
    return auroc(scores[~errors], scores[errors])


def risk_coverage(uncertainty: ArrayLike, wrong: ArrayLike) -> tuple[Floats, Floats]:
    """Coverage and risk ``[n]``: of the i + 1 least uncertain answers, their share of all, and their error rate."""
    scores, errors = _inputs(uncertainty, wrong)
    if not scores.size:
        return np.empty(0), np.empty(0)
    coverage = np.arange(1, scores.size + 1) / scores.size
    return coverage, _risk_rows(dense_rank(scores)[None], errors[None])[0]


def aurc(uncertainty: ArrayLike, wrong: ArrayLike) -> float | None:
    """Area under the risk-coverage curve: mean error rate over all coverages 1/n … 1; 0 to 1."""
    scores, errors = _inputs(uncertainty, wrong)
    return float(aurc_rows(dense_rank(scores)[None], errors[None])[0]) if scores.size else None


def aurc_rows(rank: Integers, wrong: Booleans) -> Floats:
    """AURC of each row ``[resamples]`` from dense uncertainty ranks and error flags ``[resamples, n]``."""
    return _risk_rows(rank, wrong).mean(axis=-1)


def _risk_rows(rank: Integers, wrong: Booleans) -> Floats:
    size = int(rank.max(initial=0)) + 1
    counts = row_counts(rank, size)
    error_rate = row_sums(rank, wrong.astype(np.float64), size) / np.maximum(counts, 1)
    expected = np.take_along_axis(error_rate, np.sort(rank, axis=-1), axis=-1)
    return np.cumsum(expected, axis=-1) / np.arange(1, rank.shape[-1] + 1)


def _inputs(uncertainty: ArrayLike, wrong: ArrayLike) -> tuple[Floats, Booleans]:
    scores = as_scores(uncertainty, "uncertainties")
    return scores, as_flags(wrong, "wrong", scores.size)
