"""Out-of-distribution detection from one score per example.

Fixed beforehand and never changed afterwards: the positive class is out-of-distribution (OoD), and a higher score
claims "more OoD". A score that ranks the wrong way round gets an AUROC below 0.5 and the note ``INVERTED``; it is not
flipped, because on unlabelled traffic nobody could know to flip it.

Each metric returns ``None`` when one of the two sets is empty. All depend on the order of the scores alone, so they are
computed from dense ranks, on which a row of resamples is one histogram.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vmoer.metrics._inputs import Booleans, Floats, Integers, as_scores
from vmoer.metrics.calibration import dense_rank, row_counts

INVERTED = "inverted: below 0.5"


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float | None:
    """Probability that an OoD example scores above an in-distribution one, ties counting half; 0 to 1."""
    pooled = _pooled(id_scores, ood_scores)
    return None if pooled is None else float(auroc_rows(*pooled)[0])


def auprc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float | None:
    """Average precision with OoD as the positive class, 0 to 1; its chance level is the OoD share."""
    pooled = _pooled(id_scores, ood_scores)
    return None if pooled is None else float(auprc_rows(*pooled)[0])


def fpr_at_tpr(id_scores: ArrayLike, ood_scores: ArrayLike, tpr: float = 0.95) -> float | None:
    """Share of in-distribution examples flagged at the highest threshold that catches ``tpr`` of the OoD ones."""
    pooled = _pooled(id_scores, ood_scores)
    return None if pooled is None else float(fpr_at_tpr_rows(*pooled, tpr=tpr)[0])


def pool(id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[Integers, Booleans]:
    """Dense ranks of all scores ``[n_id + n_ood]`` and which of them are OoD, in-distribution ones first."""
    inside = as_scores(id_scores, "in-distribution scores")
    outside = as_scores(ood_scores, "OoD scores")
    return dense_rank(np.concatenate([inside, outside])), np.repeat([False, True], [inside.size, outside.size])


def auroc_rows(rank: Integers, positive: Booleans) -> Floats:
    """AUROC of each row ``[resamples]`` from dense ranks and labels ``[resamples, n]``; NaN with one class only."""
    positives, negatives = _histograms(rank, positive)
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    pairs = positives.sum(axis=-1) * negatives.sum(axis=-1)
    return _divide((positives * below).sum(axis=-1), pairs)


def auprc_rows(rank: Integers, positive: Booleans) -> Floats:
    """Average precision of each row ``[resamples]``: Σ (recall step) × precision over distinct thresholds."""
    positives, negatives = (counts[:, ::-1] for counts in _histograms(rank, positive))
    caught = np.cumsum(positives, axis=-1)
    flagged = caught + np.cumsum(negatives, axis=-1)
    total = np.where(negatives.sum(axis=-1) > 0, positives.sum(axis=-1), 0)
    return _divide((positives * caught / np.maximum(flagged, 1)).sum(axis=-1), total)


def fpr_at_tpr_rows(rank: Integers, positive: Booleans, tpr: float = 0.95) -> Floats:
    """False-positive rate of each row ``[resamples]`` at the highest threshold with a true-positive rate ≥ ``tpr``."""
    positives, negatives = (counts[:, ::-1] for counts in _histograms(rank, positive))
    total = positives.sum(axis=-1)
    # Integers on both sides, with room for the rounding of tpr × total (0.95 × 20 must be 19, not 19.000000000000004).
    needed = np.ceil(tpr * total - 1e-9)
    reached = (np.cumsum(positives, axis=-1) >= needed[:, None]).argmax(axis=-1)
    false = np.take_along_axis(np.cumsum(negatives, axis=-1), reached[:, None], axis=-1)[:, 0]
    return _divide(false, np.where(total > 0, negatives.sum(axis=-1), 0))


def length_matched(id_lengths: ArrayLike, ood_lengths: ArrayLike, bins: int = 6) -> tuple[Integers, Integers]:
    """Places of as many in-distribution as OoD examples in each of ``bins`` quantile bins of the pooled lengths.

    The first examples of a bin are kept, in the order given: nothing is drawn, so the same sets give the same match.
    """
    inside, outside = as_scores(id_lengths, "in-distribution lengths"), as_scores(ood_lengths, "OoD lengths")
    edges = np.unique(np.quantile(np.concatenate([inside, outside]), np.linspace(0, 1, bins + 1)[1:-1]))
    kept: tuple[list[int], list[int]] = ([], [])
    of_bin = [np.searchsorted(edges, side, side="right") for side in (inside, outside)]
    for number in range(len(edges) + 1):
        members = [np.flatnonzero(side == number) for side in of_bin]
        size = min(map(len, members))
        for chosen, places in zip(kept, members, strict=True):
            chosen += places[:size].tolist()
    return np.array(sorted(kept[0]), dtype=np.int64), np.array(sorted(kept[1]), dtype=np.int64)


def roc_curve(id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[Floats, Floats]:
    """False- and true-positive rates at every distinct threshold, from (0, 0) to (1, 1); both empty for one class."""
    rank, positive = pool(id_scores, ood_scores)
    if positive.all() or not positive.any():
        return np.empty(0), np.empty(0)
    counts = [np.cumsum(np.bincount(rank[mask], minlength=rank.max() + 1)[::-1]) for mask in (~positive, positive)]
    false, true = (np.concatenate([[0.0], count / count[-1]]) for count in counts)
    return false, true


def _pooled(id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[Integers, Booleans] | None:
    rank, positive = pool(id_scores, ood_scores)
    return None if positive.all() or not positive.any() else (rank[None], positive[None])


def _histograms(rank: Integers, positive: Booleans) -> tuple[Integers, Integers]:
    """How many positives and negatives have each rank, per row: two ``[resamples, ranks]`` arrays."""
    size = int(rank.max(initial=0)) + 1
    both = row_counts(rank * 2 + positive, 2 * size).reshape(len(rank), size, 2)
    return both[..., 1], both[..., 0]


def _divide(numerator: Floats | Integers, denominator: Integers) -> Floats:
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), np.nan)
