"""Paired differences between two runs on the same examples: rows of the table ``comparisons``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vmoer.metrics import ood
from vmoer.metrics._inputs import MetricInputError, Rows
from vmoer.metrics._measures import Measure, centres, ood_measures
from vmoer.metrics.answer_metrics import calibration_measures
from vmoer.metrics.bootstrap import N_RESAMPLES, paired_difference
from vmoer.metrics.calibration import answered
from vmoer.metrics.definitions import definition


@dataclass(frozen=True)
class Comparison:
    """A paired difference, run minus baseline, with its 95 % interval; the fields are columns of ``comparisons``."""

    metric: str
    difference: float
    ci_low: float | None
    ci_high: float | None
    n: int
    direction: str
    score: str = ""

    def row(self, run_id: str, baseline_run_id: str, dataset: str) -> dict[str, Any]:
        """The row of the table ``comparisons``."""
        return {"run_id": run_id, "baseline_run_id": baseline_run_id, "dataset": dataset, **asdict(self)}


def paired_comparison(
    probs: Rows,
    baseline_probs: Rows,
    answers: ArrayLike,
    *,
    suffix: Literal["", "_ts"] = "",
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Differences of the calibration metrics, run minus baseline, row i of both being the same question.

    ``suffix="_ts"`` names them as temperature-scaled twins, for probabilities that are. A metric that is undefined on
    either side (MCE on a small set) is left out.
    """
    each, baseline = answered(probs, answers), answered(baseline_probs, answers)
    ours, theirs = calibration_measures(each), calibration_measures(baseline)
    between: dict[str, list[float]] = {}
    for name, measure in ours.items():
        if measure.kind == "bias-corrected":
            own = centres(measure, each.confidence, n_resamples, seed)
            other = centres(theirs[name], baseline.confidence, n_resamples, seed)
            between[name] = [one - two for one in own for two in other]
    return _differences(ours, theirs, None, n_resamples, seed, between, suffix=suffix)


def paired_ood_comparison(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    baseline_id_scores: ArrayLike,
    baseline_ood_scores: ArrayLike,
    *,
    score: str,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Differences of AUROC, AUPRC and FPR95 of a score, run minus baseline, on the same examples in the same order."""
    rank, positive = ood.pool(id_scores, ood_scores)
    baseline_rank, baseline_positive = ood.pool(baseline_id_scores, baseline_ood_scores)
    if not np.array_equal(positive, baseline_positive):
        raise MetricInputError("a paired comparison needs the same number of examples in each set of both runs")
    ours, theirs = ood_measures(rank, positive), ood_measures(baseline_rank, positive)
    return _differences(ours, theirs, positive, n_resamples, seed, {}, score=score)


def align(ids: Sequence[object], baseline_ids: Sequence[object]) -> tuple[list[int], list[int]]:
    """Row numbers of the examples that both runs share, in the first run's order; for the paired functions."""
    for given in (ids, baseline_ids):
        if len(set(given)) != len(given):
            twice = next(one for place, one in enumerate(given) if one in given[:place])
            raise MetricInputError(f"example id {twice!r} occurs twice, so examples cannot be paired by id")
    place = {one: number for number, one in enumerate(baseline_ids)}
    shared = [(number, place[one]) for number, one in enumerate(ids) if one in place]
    return [ours for ours, _ in shared], [theirs for _, theirs in shared]


def _differences(
    ours: dict[str, Measure],
    theirs: dict[str, Measure],
    groups: NDArray[Any] | None,
    n_resamples: int,
    seed: int,
    between: dict[str, list[float]],
    suffix: str = "",
    score: str = "",
) -> list[Comparison]:
    rows = []
    for name, measure in ours.items():
        value, baseline = measure.value(), theirs[name].value()
        if value is None or baseline is None:
            continue
        within = paired_difference(
            measure.statistic,
            measure.arrays,
            theirs[name].arrays,
            n_resamples=n_resamples,
            seed=seed,
            groups=groups,
            kind=measure.kind,
            centres=between.get(name, ()),
        )
        direction = definition(name).direction
        rows.append(Comparison(name + suffix, value - baseline, within.low, within.high, measure.n, direction, score))
    return rows
