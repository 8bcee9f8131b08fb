"""Calibration, out-of-distribution detection, routing stability and their intervals, on NumPy arrays; never on torch.

Per-question values (``probs``, ``option_scores``) are a sequence of 1-D arrays, one per question, so that questions may
have different numbers of options; a 2-D array does when the numbers agree. NaN and infinite values are refused with
``MetricInputError``; a metric that cannot be computed (no example, one class only) is ``None``.
"""

from vmoer.metrics._definition import Definition
from vmoer.metrics._inputs import MetricInputError
from vmoer.metrics._measures import AnswerMetric
from vmoer.metrics.answer_metrics import ANSWER_METRICS
from vmoer.metrics.bootstrap import Interval, interval, paired_difference, resample
from vmoer.metrics.calibration import (
    accuracy,
    adaptive_ece,
    bin_edges,
    brier,
    confidence,
    ece,
    mce,
    nll,
    overconfidence,
    predicted,
)
from vmoer.metrics.comparison import Comparison, align, paired_comparison, paired_ood_comparison
from vmoer.metrics.definitions import DEFINITIONS, definition
from vmoer.metrics.ood import auprc, auroc, fpr_at_tpr, length_matched, roc_curve
from vmoer.metrics.reliability import chance_ece, reliability_bins, wilson_interval
from vmoer.metrics.selective import aurc, error_auroc, risk_coverage
from vmoer.metrics.stability import (
    chance_jaccard,
    is_susceptible,
    jaccard,
    layer_stability,
    mean_interval_by_example,
    numeric_stability,
    overlap,
    susceptibility_threshold,
)
from vmoer.metrics.summary import MetricValue, calibration_metrics, ood_metrics, selective_metrics
from vmoer.metrics.temperature import CrossFit, apply_temperature, cross_fit_temperature, fit_temperature
from vmoer.metrics.uncertainty import mutual_information, one_minus_max_prob, predictive_entropy, variation_ratio

__all__ = [
    "ANSWER_METRICS",
    "DEFINITIONS",
    "AnswerMetric",
    "Comparison",
    "CrossFit",
    "Definition",
    "Interval",
    "MetricInputError",
    "MetricValue",
    "accuracy",
    "adaptive_ece",
    "align",
    "apply_temperature",
    "auprc",
    "aurc",
    "auroc",
    "bin_edges",
    "brier",
    "calibration_metrics",
    "chance_ece",
    "chance_jaccard",
    "confidence",
    "cross_fit_temperature",
    "definition",
    "ece",
    "error_auroc",
    "fit_temperature",
    "fpr_at_tpr",
    "interval",
    "is_susceptible",
    "jaccard",
    "layer_stability",
    "length_matched",
    "mce",
    "mean_interval_by_example",
    "mutual_information",
    "nll",
    "numeric_stability",
    "one_minus_max_prob",
    "ood_metrics",
    "overconfidence",
    "overlap",
    "paired_comparison",
    "paired_difference",
    "paired_ood_comparison",
    "predicted",
    "predictive_entropy",
    "reliability_bins",
    "resample",
    "risk_coverage",
    "roc_curve",
    "selective_metrics",
    "susceptibility_threshold",
    "variation_ratio",
    "wilson_interval",
]
