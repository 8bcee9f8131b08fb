"""How each metric is computed over resamples and which interval it gets: what summaries and comparisons share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmoer.metrics import ood, selective
from vmoer.metrics._definition import Definition
from vmoer.metrics._inputs import Booleans, Floats, Integers
from vmoer.metrics.bootstrap import CELLS_AT_ONCE, Kind, Statistic, resample
from vmoer.metrics.calibration import Answered

CHANCE_LEVEL = 0.975
"""Quantile of a calibrated model's binned errors up to which chance explains a value (one end of a 95 % interval)."""
BEYOND_CHANCE = 0.999
"""The same quantile for differences: only beyond it is an error's bias surely not a calibrated model's."""


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


@dataclass(frozen=True)
class AnswerMetric:
    """One metric of answers, as everyone but its own function needs to know it."""

    name: str
    label: str
    """Heading of its column in a table."""
    measure: Callable[[Answered], Measure]
    definition: Definition | None = None
    """What it means; None where ``definitions.toml`` says it."""


def ood_measures(rank: Integers, positive: Booleans) -> dict[str, Measure]:
    """The detection metrics by name, from the dense ranks of all scores and which of them are OoD."""
    statistics = {"auroc": ood.auroc_rows, "auprc": ood.auprc_rows, "fpr95": ood.fpr_at_tpr_rows}
    return {name: Measure(statistic, (rank, positive), low=0, high=1) for name, statistic in statistics.items()}


def selective_measures(rank: Integers, wrong: Booleans) -> dict[str, Measure]:
    """The selective-prediction metrics by name, from dense ranks of the uncertainties and which answers are wrong."""
    statistics = {"error_auroc": ood.auroc_rows, "aurc": selective.aurc_rows}
    return {name: Measure(statistic, (rank, wrong), low=0, high=1) for name, statistic in statistics.items()}


def calibrated_values(measure: Measure, confidence: Floats, n_resamples: int, seed: int) -> Floats:
    """A binned calibration error in ``[n_resamples]`` worlds where these confidences are exactly right.

    Its mean is the bias of a small sample, its upper quantile what chance alone can explain.
    """
    index, _ = measure.arrays
    generator = np.random.default_rng(seed)
    batch = max(1, CELLS_AT_ONCE // measure.n)
    values = []
    for start in range(0, n_resamples, batch):
        size = (min(batch, n_resamples - start), measure.n)
        gap = confidence - (generator.random(size) < confidence)
        values.append(measure.statistic(np.broadcast_to(index, size), gap))
    return np.concatenate(values)


def centres(measure: Measure, confidence: Floats, n_resamples: int, seed: int) -> tuple[float, ...]:
    """Return what a binned calibration error may be without its small-sample bias; for intervals, never shown.

    The bootstrap's own estimate of that bias is right for a clearly miscalibrated model and too small for a calibrated
    one. Where chance could explain the value, nobody can tell the two apart, so the value less what chance contributes
    on average stands beside the bootstrap's estimate: a difference of two errors has to allow for both.
    """
    value = measure.value()
    if value is None:
        return ()
    resampled = resample(measure.statistic, *measure.arrays, n_resamples=n_resamples, seed=seed)
    bootstrap = 2 * value - float(np.nanmean(resampled))
    chance = calibrated_values(measure, confidence, n_resamples, seed)
    if value > np.quantile(chance, BEYOND_CHANCE):
        return (bootstrap,)
    return (bootstrap, max(0.0, value - float(chance.mean())))


def mean_rows(values: NDArray[Any]) -> Floats:
    """Mean of each row ``[resamples]``."""
    return np.asarray(values.mean(axis=-1), dtype=np.float64)
