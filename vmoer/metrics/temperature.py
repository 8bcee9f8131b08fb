"""Temperature scaling: one number that divides every option score, fitted to the answers (Guo et al. 2017).

It cannot change which option wins, so it separates "the confidences were on the wrong scale" from what a Bayesian
router adds. Scores are whatever the softmax was taken of: option log-likelihoods or letter logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vmoer.metrics._inputs import Floats, Integers, MetricInputError, Rows, as_answers, as_rows

BOUNDS = (1e-2, 1e2)
"""Temperatures searched; a fit at a bound means that the answers fix the scale no better than that."""


class CrossFit(NamedTuple):
    """Temperature-scaled probabilities, each from temperatures fitted on the other folds."""

    probs: list[Floats]
    temperatures: Floats
    """Fitted temperature of each fold ``[folds]``: what was applied *to* that fold."""
    fold: Integers
    """0-based fold of each question ``[n]``."""


def fit_temperature(option_scores: Rows, answers: ArrayLike, bounds: tuple[float, float] = BOUNDS) -> float:
    """The temperature that minimises the NLL of the answers; above 1 means that the scores were over-confident.

    The NLL is convex in 1/T, so its slope Σ (E_p[score] − score of the answer) is bisected over log T: no step size and
    no starting point, hence the same bits every time. Scores that put every answer on top give the lower bound, scores
    that put every answer last the upper one.
    """
    padded, counts = as_rows(option_scores, "option scores", absent=-np.inf)
    right = as_answers(answers, counts)
    if right.size == 0:
        raise MetricInputError("a temperature needs at least one answered question")
    low, high = bounds
    if not 0 < low < high:
        raise MetricInputError(f"temperature bounds must satisfy 0 < low < high; they are {bounds}")
    centred = padded - padded.max(axis=-1, keepdims=True)
    target = centred[np.arange(right.size), right]
    finite = np.where(np.isinf(centred), 0.0, centred)
    if not finite.any():  # every option ties in every question: all temperatures give the same probabilities
        return float(np.clip(1.0, low, high))

    def too_sharp(temperature: float) -> bool:
        weights = np.exp(centred / temperature)
        mean = (weights * finite).sum(axis=-1) / weights.sum(axis=-1)
        return bool((mean - target).sum() > 0)

    if not too_sharp(low):
        return low
    if too_sharp(high):
        return high
    log_low, log_high = np.log(low), np.log(high)
    while log_high - log_low > 1e-10:
        middle = (log_low + log_high) / 2
        log_low, log_high = (middle, log_high) if too_sharp(float(np.exp(middle))) else (log_low, middle)
    return float(np.exp((log_low + log_high) / 2))


def apply_temperature(option_scores: Rows, temperature: float) -> list[Floats]:
    """softmax(scores / T) of each question: probabilities, one 1-D array per question."""
    if not (np.isfinite(temperature) and temperature > 0):
        raise MetricInputError(f"a temperature must be a positive finite number; it is {temperature}")
    padded, counts = as_rows(option_scores, "option scores", absent=-np.inf)
    weights = np.exp((padded - padded.max(axis=-1, keepdims=True, initial=-np.inf)) / temperature)
    probs = weights / weights.sum(axis=-1, keepdims=True)
    return [row[:count] for row, count in zip(probs, counts, strict=True)]


def cross_fit_temperature(option_scores: Rows, answers: ArrayLike, ids: Sequence[object], folds: int = 2) -> CrossFit:
    """Temperature-scaled probabilities when there is no validation set: no answer tunes its own temperature.

    Folds are decided by the SHA-256 of each id, so a question is in the same fold in any order and any run. With fewer
    questions than folds, or all of them in one fold, there is nothing to fit on: ``MetricInputError``.
    """
    scores = [np.asarray(row, dtype=np.float64) for row in option_scores]
    if len(ids) != len(scores):
        raise MetricInputError(f"{len(scores)} questions but {len(ids)} ids; give one id each")
    if folds < 2:
        raise MetricInputError(f"cross-fitting needs at least 2 folds; it was asked for {folds}")
    given = np.asarray(answers)
    fold = fold_of(ids, folds)
    temperatures = np.empty(folds)
    probs: list[Floats] = [np.empty(0)] * len(scores)
    for number in range(folds):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if not outside.size:
            raise MetricInputError(f"all {len(scores)} questions fall into one fold, so no temperature can be fitted")
        temperatures[number] = fit_temperature([scores[i] for i in outside], given[outside])
        scaled = apply_temperature([scores[i] for i in inside], float(temperatures[number]))
        for i, row in zip(inside, scaled, strict=True):
            probs[i] = row
    return CrossFit(probs, temperatures, fold)


def fold_of(ids: Sequence[object], folds: int) -> Integers:
    """0-based fold of each id ``[n]``, from its SHA-256; independent of order, process and platform."""
    digests = (hashlib.sha256(str(one).encode("utf-8", "surrogatepass")).digest() for one in ids)
    return np.array([int.from_bytes(digest[:8], "big") % folds for digest in digests], dtype=np.int64)
