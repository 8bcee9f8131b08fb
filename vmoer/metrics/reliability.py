"""Reliability diagrams: confidence against accuracy, bin by bin, with an interval for each bin."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, floor, lgamma, log
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from vmoer.metrics._inputs import Floats, Integers, MetricInputError, Rows
from vmoer.metrics.calibration import N_BINS, answered, bin_edges, dense_rank, equal_mass_bin, equal_width_bin

Scheme = Literal["equal-width", "adaptive"]

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def reliability_bins(
    probs: Rows, answers: ArrayLike, scheme: Scheme = "equal-width", n_bins: int = N_BINS
) -> dict[str, list[Any]]:
    """One entry per bin, as columns of the table ``reliability_bins`` from ``scheme`` to ``ci_high``.

    Fractions throughout; ``None`` stands for NULL in an empty bin. ``equal-width`` always has ``n_bins`` bins;
    ``adaptive`` lists the non-empty ones, and their edges (the largest confidence of each bin) tile [0, 1].
    """
    each = answered(probs, answers)
    if scheme == "equal-width":
        edges, bins = bin_edges(n_bins), equal_width_bin(each.confidence, n_bins)
    elif scheme == "adaptive":
        edges, bins = _adaptive(each.confidence, n_bins)
    else:
        raise MetricInputError(f"unknown binning scheme {scheme!r}; it is 'equal-width' or 'adaptive'")
    size = len(edges) - 1
    counts = np.bincount(bins, minlength=size)
    hits = np.bincount(bins, weights=each.correct, minlength=size)
    total = np.bincount(bins, weights=each.confidence, minlength=size)
    low, high = wilson_interval(hits, counts)
    filled = counts > 0
    divisor = np.maximum(counts, 1)
    return {
        "scheme": [scheme] * size,
        "bin": list(range(size)),
        "lower": edges[:-1].tolist(),
        "upper": edges[1:].tolist(),
        "n": counts.tolist(),
        "mean_confidence": _nullable(total / divisor, filled),
        "accuracy": _nullable(hits / divisor, filled),
        "ci_low": _nullable(low, filled),
        "ci_high": _nullable(high, filled),
    }


def chance_ece(bins: Iterable[tuple[int, float | None]]) -> float | None:
    """ECE that a perfectly calibrated model shows on average in bins of ``(n, mean confidence)``; ``None`` without one.

    In such a model a bin's hits are binomial, and |confidence − accuracy| is their mean absolute deviation, De Moivre's
    2 ν (1 − p) P(X = ν) with ν = ⌊n p⌋ + 1, over n. The confidences inside a bin are taken as equal to their mean.
    """
    filled = [(n, confidence) for n, confidence in bins if n and confidence is not None]
    total = sum(n for n, _ in filled)
    return sum(_mean_absolute_deviation(n, p) for n, p in filled) / total if total else None


def wilson_interval(successes: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Wilson 95 % interval of a proportion, lower and upper ends; (0, 1), i.e. nothing known, where n is 0."""
    count = np.asarray(n, dtype=np.float64)
    share = np.asarray(successes, dtype=np.float64) / np.maximum(count, 1)
    scale = 1 / (1 + Z_95**2 / np.maximum(count, 1))
    centre = scale * (share + Z_95**2 / (2 * np.maximum(count, 1)))
    half = scale * Z_95 * np.sqrt(share * (1 - share) / np.maximum(count, 1) + (Z_95 / (2 * np.maximum(count, 1))) ** 2)
    known = count > 0
    # At 0 and n successes the exact ends are 0 and 1; rounding may leave them a hair inside.
    low = np.where(known & (share > 0), np.maximum(centre - half, 0), 0.0)
    high = np.where(known & (share < 1), np.minimum(centre + half, 1), 1.0)
    return low, high


def _mean_absolute_deviation(n: int, p: float) -> float:
    """E|X − n p| of a binomial X."""
    if not 0 < p < 1:
        return 0.0
    above = min(floor(n * p) + 1, n)
    chosen = lgamma(n + 1) - lgamma(above + 1) - lgamma(n - above + 1)
    return 2 * above * exp(chosen + above * log(p) + (n - above + 1) * log(1 - p))


def _adaptive(confidence: Floats, n_bins: int) -> tuple[Floats, Integers]:
    """Edges and 0-based bins of the non-empty equal-mass bins."""
    nominal = equal_mass_bin(dense_rank(confidence)[None], n_bins)[0]
    used, bins = np.unique(nominal, return_inverse=True)
    upper = np.array([confidence[bins == number].max() for number in range(len(used))])
    return np.concatenate([[0.0], upper[:-1], [1.0]]) if len(used) else np.array([0.0]), bins


def _nullable(values: Floats, filled: Any) -> list[float | None]:
    return [float(value) if there else None for value, there in zip(values, filled, strict=True)]
