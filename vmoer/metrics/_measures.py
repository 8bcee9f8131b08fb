"""How each metric is computed over resamples and which interval it gets: what summaries and comparisons share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmoer.metrics import calibration, ood, selective
from vmoer.metrics._inputs import Booleans, Floats, Integers
from vmoer.metrics.bootstrap import Kind, Statistic
from vmoer.metrics.calibration import Answered, dense_rank, equal_width_bin


@dataclass(frozen=True)
class Measure:
    """One metric of one set of examples, ready to be resampled."""

    statistic: Statistic
    arrays: tuple[NDArray[Any], ...]
    """What the statistic takes, one entry per example in each ``[n]``."""
    kind: Kind = "percentile"
    low: float = -np.inf
    high: float = np.inf
    """Range of the metric; intervals are cut to it."""

    @property
    def n(self) -> int:
        return len(self.arrays[0])

    def value(self) -> float | None:
        """The metric itself; ``None`` where it is undefined."""
        if not self.n:
            return None
        found = float(self.statistic(*(array[None] for array in self.arrays))[0])
        return None if np.isnan(found) else found


def calibration_measures(each: Answered) -> dict[str, Measure]:
    """The calibration metrics by name."""
    bins = equal_width_bin(each.confidence)
    binned = partial(Measure, kind="bias-corrected", low=0, high=1)
    return {
        "accuracy": Measure(mean_rows, (each.correct,), low=0, high=1),
        "ece": binned(calibration.ece_rows, (bins, each.gap)),
        "ece_adaptive": binned(calibration.adaptive_ece_rows, (dense_rank(each.confidence), each.gap)),
        "mce": binned(calibration.mce_rows, (bins, each.gap)),
        "nll": Measure(mean_rows, (each.nll,), low=0),
        "brier": Measure(mean_rows, (each.brier,), low=0, high=2),
        "overconfidence": Measure(mean_rows, (each.gap,), low=-1, high=1),
    }


def ood_measures(rank: Integers, positive: Booleans) -> dict[str, Measure]:
    """The detection metrics by name, from the dense ranks of all scores and which of them are OoD."""
    statistics = {"auroc": ood.auroc_rows, "auprc": ood.auprc_rows, "fpr95": ood.fpr_at_tpr_rows}
    return {name: Measure(statistic, (rank, positive), low=0, high=1) for name, statistic in statistics.items()}


def selective_measures(rank: Integers, wrong: Booleans) -> dict[str, Measure]:
    """The selective-prediction metrics by name, from dense ranks of the uncertainties and which answers are wrong."""
    statistics = {"error_auroc": ood.auroc_rows, "aurc": selective.aurc_rows}
    return {name: Measure(statistic, (rank, wrong), low=0, high=1) for name, statistic in statistics.items()}


def mean_rows(values: NDArray[Any]) -> Floats:
    """Mean of each row ``[resamples]``."""
    return np.asarray(values.mean(axis=-1), dtype=np.float64)
