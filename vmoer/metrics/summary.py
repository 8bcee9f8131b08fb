"""From predictions and scores to the rows that the store keeps: every metric with its interval, n and direction.

Callers add what they alone know: ``value.row(run_id, dataset)`` is a row of the table ``metrics``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vmoer.metrics import ood
from vmoer.metrics._inputs import Floats, MetricInputError, Rows, as_flags, as_probs, as_scores
from vmoer.metrics._measures import (
    CHANCE_LEVEL,
    Measure,
    calibrated_values,
    ood_measures,
    selective_measures,
)
from vmoer.metrics.answer_metrics import calibration_measures
from vmoer.metrics.bootstrap import N_RESAMPLES, Interval, interval
from vmoer.metrics.calibration import MIN_COUNT, Answered, answered, dense_rank
from vmoer.metrics.definitions import definition
from vmoer.metrics.reliability import wilson_interval
from vmoer.metrics.temperature import apply_temperature, cross_fit_temperature, fold_of

FOLDS = 2
"""Folds of the cross-fitted temperature."""
ONE_CLASS = "undefined: one class only"
NO_EXAMPLES = "undefined: no examples"


@dataclass(frozen=True)
class MetricValue:
    """One number with its 95 % interval; the fields are the columns of the table ``metrics``."""

    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    direction: str
    n_bootstrap: int
    note: str | None = None
    score: str = ""
    position_rule: str = "answer"
    aggregation: str = "none"

    def row(self, run_id: str, dataset: str) -> dict[str, Any]:
        """The row of the table ``metrics``."""
        return {"run_id": run_id, "dataset": dataset, **asdict(self)}


def calibration_metrics(
    probs: Rows,
    answers: ArrayLike,
    *,
    option_scores: Rows | None = None,
    temperature: float | None = None,
    ids: Sequence[object] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[MetricValue]:
    """Accuracy, ECE, adaptive ECE, MCE, NLL, Brier score and over-confidence, with 95 % intervals.

    The temperature-scaled twins (``ece_ts`` …) and ``temperature`` follow when either ``temperature`` (fitted on a
    validation set) or ``ids`` (two cross-fitted folds of these very questions) is given; they are left out when the ids
    fall into one fold, which leaves nothing to fit on. ``option_scores`` is what the softmax was taken of; without it
    the log probabilities are scaled, which is the same thing up to underflow.
    """
    each = answered(probs, answers)
    rows = _calibration_rows(each, "", n_resamples, seed)
    if temperature is None and ids is None:
        return rows
    scores = _log_probs(probs) if option_scores is None else option_scores
    if len(scores) != each.correct.size:
        raise MetricInputError(f"{each.correct.size} questions but {len(scores)} rows of option scores")
    note: str | None = None
    if temperature is not None:
        scaled = apply_temperature(scores, temperature)
    elif ids is not None and np.unique(fold_of(ids, FOLDS)).size == FOLDS:
        fitted = cross_fit_temperature(scores, answers, ids, FOLDS)
        temperature = float(np.exp(np.log(fitted.temperatures).mean()))
        note = "cross-fitted: " + ", ".join(f"{one:.4g}" for one in fitted.temperatures)
        scaled = fitted.probs
    else:
        return rows
    rows += _calibration_rows(answered(scaled, answers), "_ts", n_resamples, seed)
    direction = definition("temperature").direction
    return [*rows, MetricValue("temperature", temperature, None, None, each.correct.size, direction, 0, note)]


def ood_metrics(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    *,
    score: str,
    position_rule: str = "answer",
    aggregation: str = "none",
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[MetricValue]:
    """AUROC, AUPRC and FPR at 95 % TPR of one score (positive = OoD, higher = OoD), with 95 % intervals.

    Resamples keep the two class sizes. With one of the sets empty the values are NULL and the note says why.
    """
    rank, positive = ood.pool(id_scores, ood_scores)
    key = (score, position_rule, aggregation)
    return _ranking_rows(ood_measures(rank, positive), positive, key, n_resamples, seed)


def selective_metrics(
    uncertainty: ArrayLike,
    wrong: ArrayLike,
    *,
    score: str,
    position_rule: str = "answer",
    aggregation: str = "none",
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[MetricValue]:
    """``error_auroc`` and ``aurc`` of one uncertainty score against wrong answers, with 95 % intervals."""
    scores = as_scores(uncertainty, "uncertainties")
    errors = as_flags(wrong, "wrong", scores.size)
    key = (score, position_rule, aggregation)
    return _ranking_rows(selective_measures(dense_rank(scores), errors), errors, key, n_resamples, seed)


def _calibration_rows(each: Answered, suffix: str, n_resamples: int, seed: int) -> list[MetricValue]:
    rows = []
    for name, measure in calibration_measures(each).items():
        value = measure.value()
        if name == "accuracy" and value is not None:
            # A proportion has a closed-form interval that stays honest at 0 and 1, where resamples do not vary.
            low, high = (float(end) for end in wilson_interval(each.correct.sum(), measure.n))
            rows.append(MetricValue(name + suffix, value, low, high, measure.n, definition(name).direction, 0))
            continue
        note = None
        if value is None:
            note = f"undefined: no bin has {MIN_COUNT} examples" if measure.n else NO_EXAMPLES
        within = interval(measure.statistic, *measure.arrays, n_resamples=n_resamples, seed=seed, kind=measure.kind)
        if value is not None and within.low is not None and measure.kind == "bias-corrected":
            # No worse than chance would make a perfectly calibrated model: zero must stay in the interval.
            chance = calibrated_values(measure, each.confidence, n_resamples, seed)
            within = replace(within, low=0.0) if value <= np.quantile(chance, CHANCE_LEVEL) else within
        rows.append(_metric_value(name, measure, value, within, note, suffix=suffix))
    return rows


def _ranking_rows(
    measures: dict[str, Measure], groups: NDArray[Any], key: tuple[str, str, str], n_resamples: int, seed: int
) -> list[MetricValue]:
    rows = []
    for name, measure in measures.items():
        value = measure.value()
        note = None
        if value is None:
            note = ONE_CLASS if measure.n else NO_EXAMPLES
        elif name.endswith("auroc") and value < 0.5:
            note = ood.INVERTED
        # AURC is a mean over all answers, whose number of errors is itself uncertain: no strata.
        strata = None if name == "aurc" else groups
        within = interval(measure.statistic, *measure.arrays, n_resamples=n_resamples, seed=seed, groups=strata)
        rows.append(_metric_value(name, measure, value, within, note, key))
    return rows


def _metric_value(
    name: str,
    measure: Measure,
    value: float | None,
    within: Interval,
    note: str | None,
    key: tuple[str, str, str] = ("", "answer", "none"),
    suffix: str = "",
) -> MetricValue:
    if value is not None and within.reason:
        note = "; ".join(part for part in (note, within.reason) if part)
    cut = within.clipped(measure.low, measure.high)
    direction = definition(name).direction
    return MetricValue(name + suffix, value, cut.low, cut.high, measure.n, direction, within.n_resamples, note, *key)


def _log_probs(probs: Rows) -> list[Floats]:
    padded, counts = as_probs(probs)
    smallest = np.finfo(np.float64).tiny
    return [np.log(np.maximum(row[:count], smallest)) for row, count in zip(padded, counts, strict=True)]
