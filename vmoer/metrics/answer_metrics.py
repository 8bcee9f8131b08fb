"""The table of answer metrics: what is computed on the answers to a set of questions, in the order of the tables.

A new metric is a function from :class:`~vmoer.metrics.calibration.Answered` to a ``Measure`` in a file of its own, and
one line here. It is then computed for every run with its interval and its temperature-scaled twin, compared in pairs,
stored, documented and shown on the page Calibration.
"""

from __future__ import annotations

from functools import partial

from vmoer.metrics import calibration
from vmoer.metrics._measures import AnswerMetric, Measure, mean_rows
from vmoer.metrics.calibration import Answered, dense_rank, equal_width_bin

_binned = partial(Measure, kind="bias-corrected", low=0, high=1)

ANSWER_METRICS = (
    AnswerMetric("accuracy", "accuracy", lambda each: Measure(mean_rows, (each.correct,), low=0, high=1)),
    AnswerMetric(
        "ece", "ECE", lambda each: _binned(calibration.ece_rows, (equal_width_bin(each.confidence), each.gap))
    ),
    AnswerMetric(
        "ece_adaptive",
        "adaptive ECE",
        lambda each: _binned(calibration.adaptive_ece_rows, (dense_rank(each.confidence), each.gap)),
    ),
    AnswerMetric(
        "mce", "MCE", lambda each: _binned(calibration.mce_rows, (equal_width_bin(each.confidence), each.gap))
    ),
    AnswerMetric("nll", "NLL (nats)", lambda each: Measure(mean_rows, (each.nll,), low=0)),
    AnswerMetric("brier", "Brier", lambda each: Measure(mean_rows, (each.brier,), low=0, high=2)),
    AnswerMetric("overconfidence", "over-confidence", lambda each: Measure(mean_rows, (each.gap,), low=-1, high=1)),
)


def calibration_measures(each: Answered) -> dict[str, Measure]:
    """Return the measure of every answer metric by name."""
    return {metric.name: metric.measure(each) for metric in ANSWER_METRICS}
