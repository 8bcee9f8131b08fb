"""Bootstrap intervals over examples: vectorised, seeded by an explicit generator, honest when there is nothing to say.

A *statistic* is a function of one or more arrays ``[resamples, n, ...]`` that returns one number per resample
``[resamples]``; NaN there means "undefined in this resample" (for example, one class only). All resamples are evaluated
together, which is what makes 2,000 of them cheap.

Three kinds of interval (Efron & Tibshirani 1993, chapters 13 and 14):

* ``percentile``: the 2.5 and 97.5 % quantiles of the resampled statistic. Right for means and ranks.
* ``bca``: percentile points corrected for bias and skew, from a jackknife.
* ``bias-corrected``: for binned calibration errors, whose resamples sit *above* the estimate (noise inside a bin only
  ever adds to |confidence − accuracy|), so that the percentile interval of a well calibrated model almost never holds
  the truth. It is the hull of the percentile interval shifted by the bootstrap's own bias estimate and of the basic
  interval (2·estimate − quantile), and always holds the estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vmoer.metrics._inputs import Floats, Integers, MetricInputError

N_RESAMPLES = 1000
LEVEL = 0.95
MAX_UNDEFINED = 0.05
"""Share of undefined resamples above which no interval is given: its tails would be guesses."""
CELLS_AT_ONCE = 2**22
"""Resampled values held in memory at a time (32 MB of doubles per array)."""

Statistic = Callable[..., NDArray[Any]]
Kind = Literal["percentile", "bca", "bias-corrected"]
Seed = int | np.random.Generator


@dataclass(frozen=True)
class Interval:
    """A two-sided interval in the statistic's own unit, or the reason why there is none."""

    low: float | None
    high: float | None
    n_resamples: int
    n_undefined: int = 0
    reason: str | None = None

    def clipped(self, low: float = -np.inf, high: float = np.inf) -> Interval:
        """The same interval inside the range that the statistic can take."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=float(np.clip(self.low, low, high)), high=float(np.clip(self.high, low, high)))


def interval(
    statistic: Statistic,
    *arrays: ArrayLike,
    n_resamples: int = N_RESAMPLES,
    seed: Seed = 0,
    groups: ArrayLike | None = None,
    kind: Kind = "percentile",
    level: float = LEVEL,
    centres: Sequence[float] = (),
) -> Interval:
    """Bootstrap interval of ``statistic(*arrays)`` over examples (the first axis of every array), in its own unit.

    ``groups`` ``[n]`` resamples within each group, so that class sizes stay as they are (AUROC). There is no interval
    (``low is None``, with the ``reason``) for fewer than two examples, when the statistic is undefined, when more than
    5 % of the resamples are undefined, or when every resample gives the same value: a width of zero would claim a
    certainty that the data cannot give.

    ``centres``, for ``bias-corrected`` alone, are less biased estimates of the same quantity; the percentile interval
    moved to each of them joins the hull.
    """
    if n_resamples < 1:
        raise MetricInputError(f"n_resamples must be at least 1; it is {n_resamples}")
    if not 0 < level < 1:
        raise MetricInputError(f"level must lie between 0 and 1; it is {level}")
    columns = [np.asarray(array) for array in arrays]
    n = _common_length(columns)
    if n < 2:
        return Interval(None, None, 0, reason=f"no interval: {n} example{'s' if n != 1 else ''}")
    estimate = _at(statistic, columns, np.arange(n)[None])[0]
    if np.isnan(estimate):
        return Interval(None, None, 0, reason="no interval: the value itself is undefined")
    values = resample(statistic, *columns, n_resamples=n_resamples, seed=seed, groups=groups)
    defined = values[~np.isnan(values)]
    undefined = n_resamples - defined.size
    if undefined > MAX_UNDEFINED * n_resamples:
        reason = f"no interval: undefined in {undefined} of {n_resamples} resamples"
        return Interval(None, None, n_resamples, undefined, reason)
    if np.ptp(defined) <= 1e-12 * max(1.0, abs(float(estimate))):
        reason = "no interval: every resample gives the same value"
        return Interval(None, None, n_resamples, undefined, reason)
    tail = (1 - level) / 2
    if kind == "percentile":
        low, high = np.quantile(defined, [tail, 1 - tail])
    elif kind == "bca":
        low, high = np.quantile(defined, _bca_points(statistic, columns, defined, estimate, tail))
    elif kind == "bias-corrected":
        ends = np.quantile(defined, [tail, 1 - tail])
        shifted = ends - (defined.mean() - estimate)
        basic = 2 * estimate - ends[::-1]
        moved = [ends - (defined.mean() - centre) for centre in centres]
        low = min(shifted[0], basic[0], estimate, *(pair[0] for pair in moved))
        high = max(shifted[1], basic[1], estimate, *(pair[1] for pair in moved))
    else:
        raise MetricInputError(f"unknown interval {kind!r}; it is 'percentile', 'bca' or 'bias-corrected'")
    return Interval(float(low), float(high), n_resamples, undefined)


def paired_difference(
    statistic: Statistic,
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    *,
    n_resamples: int = N_RESAMPLES,
    seed: Seed = 0,
    groups: ArrayLike | None = None,
    kind: Kind = "percentile",
    level: float = LEVEL,
    centres: Sequence[float] = (),
) -> Interval:
    """Interval of ``statistic(*first) − statistic(*second)`` when row i of both is the same example.

    Each resample draws the same examples for both sides, so what they share cancels; for correlated results that is
    much narrower than the difference of two separate intervals.
    """
    split = len(first)

    def difference(*both: NDArray[Any]) -> NDArray[Any]:
        return statistic(*both[:split]) - statistic(*both[split:])

    return interval(
        difference,
        *first,
        *second,
        n_resamples=n_resamples,
        seed=seed,
        groups=groups,
        kind=kind,
        level=level,
        centres=centres,
    )


def resample(
    statistic: Statistic,
    *arrays: ArrayLike,
    n_resamples: int = N_RESAMPLES,
    seed: Seed = 0,
    groups: ArrayLike | None = None,
) -> Floats:
    """The statistic on each bootstrap resample ``[n_resamples]``, NaN where undefined; global RNG state is not used."""
    columns = [np.asarray(array) for array in arrays]
    n = _common_length(columns)
    generator = np.random.default_rng(seed)
    strata = [np.arange(n)] if groups is None else _strata(np.asarray(groups), n)
    widest = max(int(np.prod(column.shape)) for column in columns)
    batch = max(1, CELLS_AT_ONCE // max(widest, 1))
    values = np.empty(n_resamples)
    for start in range(0, n_resamples, batch):
        size = min(batch, n_resamples - start)
        index = np.empty((size, n), dtype=np.int64)
        for members in strata:
            index[:, members] = members[generator.integers(0, members.size, (size, members.size))]
        values[start : start + size] = _at(statistic, columns, index)
    return values


def _at(statistic: Statistic, columns: list[NDArray[Any]], index: Integers) -> Floats:
    values = np.asarray(statistic(*(column[index] for column in columns)), dtype=np.float64)
    if values.shape != (len(index),):
        raise MetricInputError(
            f"a statistic must return one number per resample, shape ({len(index)},); it returned {values.shape}"
        )
    return values


def _bca_points(
    statistic: Statistic, columns: list[NDArray[Any]], defined: Floats, estimate: float, tail: float
) -> Floats:
    """Quantile levels of the BCa interval: bias from the resamples, acceleration from the jackknife."""
    n = len(columns[0])
    others = np.arange(n - 1)[None] + (np.arange(n - 1)[None] >= np.arange(n)[:, None])
    left_out = np.array([_at(statistic, columns, row[None])[0] for row in others])
    spread = np.nanmean(left_out) - left_out
    scale = float(np.nansum(spread**2) ** 1.5)
    acceleration = float(np.nansum(spread**3)) / (6 * scale) if scale > 0 else 0.0
    # Half of the ties count as below: discrete statistics (accuracy) would look biased otherwise.
    below = (np.count_nonzero(defined < estimate) + np.count_nonzero(defined == estimate) / 2) / defined.size
    normal = NormalDist()
    bias = normal.inv_cdf(min(max(below, 0.5 / defined.size), 1 - 0.5 / defined.size))
    ends = (bias + normal.inv_cdf(level) for level in (tail, 1 - tail))
    return np.array([normal.cdf(bias + z / (1 - acceleration * z)) for z in ends])


def _strata(groups: NDArray[Any], n: int) -> list[Integers]:
    if groups.shape != (n,):
        raise MetricInputError(f"groups must be {n} labels, one per example; the shape is {groups.shape}")
    return [np.flatnonzero(groups == label) for label in np.unique(groups)]


def _common_length(columns: list[NDArray[Any]]) -> int:
    if not columns:
        raise MetricInputError("a bootstrap needs at least one array of examples")
    lengths = {column.shape[0] if column.ndim else -1 for column in columns}
    if len(lengths) != 1 or -1 in lengths:
        shapes = ", ".join(str(column.shape) for column in columns)
        raise MetricInputError(f"all arrays must have the same number of examples; their shapes are {shapes}")
    return lengths.pop()
