"""Calibration of multiple-choice answers: how well stated confidence matches how often the answer is right.

Confidence is the largest option probability, and the prediction is the option that has it (the first one when several
tie). Every public function takes ``probs`` (a sequence of 1-D arrays, one per question, or a 2-D array) and ``answers``
(0-based indices) and returns ``None`` when there is no question to compute it on.

The ``*_rows`` functions are the same metrics over the last axis of ``[resamples, n]`` arrays, which is what makes
bootstrap intervals fast.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vmoer.metrics._inputs import Booleans, Floats, Integers, Rows, as_answers, as_probs

N_BINS = 15
MIN_COUNT = 10
"""Examples a bin needs before it may set the maximum calibration error: one stray answer must not."""
PROBABILITY_FLOOR = float(np.finfo(np.float64).eps)
"""Smallest probability the NLL sees (36.04 nats), so that one certain error does not make it infinite."""


class Answered(NamedTuple):
    """Per-question quantities that every calibration metric is a mean or a binned mean of; each ``[n]``."""

    confidence: Floats
    correct: Booleans
    nll: Floats
    brier: Floats

    @property
    def gap(self) -> Floats:
        """Confidence minus correctness ``[n]``: its mean is the signed miscalibration."""
        return self.confidence - self.correct


def answered(probs: Rows, answers: ArrayLike) -> Answered:
    """Confidence, correctness, NLL (nats) and Brier score of each question ``[n]``."""
    padded, counts = as_probs(probs)
    right = as_answers(answers, counts)
    row = np.arange(right.size)
    # Sums may be off by SUM_TOLERANCE; the confidence itself is kept as given, so that stored values bin as shown.
    truth = np.zeros_like(padded)
    truth[row, right] = 1.0
    return Answered(
        confidence=padded.max(axis=-1, initial=0.0),
        correct=padded.argmax(axis=-1) == right,
        nll=-np.log(np.maximum(padded[row, right], PROBABILITY_FLOOR)),
        brier=((padded - truth) ** 2).sum(axis=-1),
    )


def confidence(probs: Rows) -> Floats:
    """Largest option probability of each question ``[n]``."""
    return as_probs(probs)[0].max(axis=-1, initial=0.0)


def predicted(probs: Rows) -> Integers:
    """0-based index of the most probable option ``[n]``; the first of several that tie."""
    return as_probs(probs)[0].argmax(axis=-1)


def accuracy(probs: Rows, answers: ArrayLike) -> float | None:
    """Share of questions answered right, 0 to 1."""
    return _mean(answered(probs, answers).correct)


def nll(probs: Rows, answers: ArrayLike) -> float | None:
    """Mean negative log probability of the right option, in nats."""
    return _mean(answered(probs, answers).nll)


def brier(probs: Rows, answers: ArrayLike) -> float | None:
    """Mean squared distance between the probabilities and the right answer, summed over options; 0 to 2."""
    return _mean(answered(probs, answers).brier)


def overconfidence(probs: Rows, answers: ArrayLike) -> float | None:
    """Mean confidence minus accuracy, −1 to 1: positive is over-confident, negative under-confident."""
    return _mean(answered(probs, answers).gap)


def ece(probs: Rows, answers: ArrayLike, n_bins: int = N_BINS) -> float | None:
    """Expected calibration error, 0 to 1, over equal-width bins (lo, hi], the first one including 0."""
    each = answered(probs, answers)
    return _first(ece_rows(equal_width_bin(each.confidence, n_bins)[None], each.gap[None], n_bins))


def adaptive_ece(probs: Rows, answers: ArrayLike, n_bins: int = N_BINS) -> float | None:
    """Expected calibration error, 0 to 1, over equal-mass bins; equal confidences always share a bin."""
    each = answered(probs, answers)
    return _first(adaptive_ece_rows(dense_rank(each.confidence)[None], each.gap[None], n_bins))


def mce(probs: Rows, answers: ArrayLike, n_bins: int = N_BINS, min_count: int = MIN_COUNT) -> float | None:
    """Largest |confidence − accuracy| of an equal-width bin with at least ``min_count`` examples, 0 to 1.

    ``None`` when no bin has that many.
    """
    each = answered(probs, answers)
    return _first(mce_rows(equal_width_bin(each.confidence, n_bins)[None], each.gap[None], n_bins, min_count))


def bin_edges(n_bins: int = N_BINS) -> Floats:
    """Edges of equal-width bins ``[n_bins + 1]``, each the correctly rounded i / n_bins."""
    return np.arange(n_bins + 1) / n_bins


def equal_width_bin(confidence: Floats, n_bins: int = N_BINS) -> Integers:
    """0-based equal-width bin of each confidence: (lo, hi], the first one including 0."""
    return np.maximum(np.searchsorted(bin_edges(n_bins), confidence, side="left") - 1, 0)


def equal_mass_bin(rank: Integers, n_bins: int = N_BINS) -> Integers:
    """0-based equal-mass bin of each example, from the dense ranks of the confidences; ``[resamples, n]``.

    An example goes to bin ⌊B · m / n⌋, m being the mid-rank of its confidence (examples below it plus half of those
    equal to it). So ties stay together, the order of the examples does not matter, and without ties the bins differ by
    at most one example. A bin may stay empty.
    """
    counts = row_counts(rank, int(rank.max(initial=0)) + 1)
    middle = np.cumsum(counts, axis=-1) - counts / 2
    bins = (n_bins * middle / max(rank.shape[-1], 1)).astype(np.int64)
    return np.take_along_axis(np.minimum(bins, n_bins - 1), rank, axis=-1)


def dense_rank(values: Floats) -> Integers:
    """Rank of each value among the distinct ones, 0-based, equal values sharing a rank; shape of ``values``."""
    return np.unique(values, return_inverse=True)[1].reshape(np.shape(values))


def ece_rows(bins: Integers, gap: Floats, n_bins: int = N_BINS) -> Floats:
    """ECE of each row ``[resamples]`` from bin indices and gaps ``[resamples, n]``; NaN when n is 0."""
    n = bins.shape[-1]
    return np.asarray(np.abs(row_sums(bins, gap, n_bins)).sum(axis=-1) / n if n else np.full(len(bins), np.nan))


def adaptive_ece_rows(rank: Integers, gap: Floats, n_bins: int = N_BINS) -> Floats:
    """Equal-mass ECE of each row ``[resamples]`` from dense confidence ranks and gaps ``[resamples, n]``."""
    return ece_rows(equal_mass_bin(rank, n_bins), gap, n_bins)


def mce_rows(bins: Integers, gap: Floats, n_bins: int = N_BINS, min_count: int = MIN_COUNT) -> Floats:
    """MCE of each row ``[resamples]``; NaN where no bin has ``min_count`` examples."""
    counts = row_counts(bins, n_bins)
    each = np.abs(row_sums(bins, gap, n_bins)) / np.maximum(counts, 1)
    worst = np.where(counts >= max(min_count, 1), each, -1.0).max(axis=-1)
    return np.where(worst < 0, np.nan, worst)


def row_counts(index: Integers, size: int) -> Integers:
    """How often each index 0 … size − 1 occurs in each row: ``[resamples, size]``."""
    counts = np.bincount(_flat(index, size), minlength=len(index) * size)
    return counts.astype(np.int64).reshape(len(index), size)


def row_sums(index: Integers, values: Floats, size: int) -> Floats:
    """Sum of the values at each index in each row: ``[resamples, size]``."""
    sums = np.bincount(_flat(index, size), weights=values.ravel(), minlength=len(index) * size)
    return sums.astype(np.float64).reshape(len(index), size)


def _flat(index: Integers, size: int) -> Integers:
    return (index + np.arange(len(index))[:, None] * size).ravel()


def _mean(values: Floats | Booleans) -> float | None:
    return float(values.mean()) if values.size else None


def _first(values: Floats) -> float | None:
    return None if np.isnan(values[0]) else float(values[0])
