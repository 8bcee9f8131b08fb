"""The door of the metrics: every array is checked here once, and refused with one sentence.

Questions may have different numbers of options (real sets mix three, four and five), so probabilities and option scores
are accepted as **a sequence of 1-D arrays, one per question**, or as a 2-D array when all counts agree. Inside, absent
options are padded with probability 0 (score −inf), which leaves every metric unchanged and needs no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vmoer.errors import VmoerError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Rows = Sequence[ArrayLike] | NDArray[Any]
"""Per-question values: a sequence of 1-D arrays (option counts may differ) or a 2-D array [n, options]."""

SUM_TOLERANCE = 1e-4
"""How far a row of probabilities may be from 1: loose enough for float32 softmaxes, tight enough for mistakes."""


class MetricInputError(VmoerError, ValueError):
    """Values that a metric cannot honestly be computed from: NaN, infinite, out of range or of unequal length."""


def as_rows(rows: Rows, what: str, absent: float) -> tuple[Floats, Integers]:
    """The rows as ``[n, options]`` padded with ``absent``, and the number of options of each row ``[n]``."""
    arrays = [np.asarray(row, dtype=np.float64) for row in rows]
    for number, row in enumerate(arrays):
        if row.ndim != 1 or row.size == 0:
            raise MetricInputError(
                f"{what} of question {number} must be a non-empty list of numbers, one per option; "
                f"it has shape {row.shape}"
            )
        if not np.isfinite(row).all():
            bad = row[~np.isfinite(row)][0]
            raise MetricInputError(f"{what} of question {number} hold {bad}; every value must be a finite number")
    counts = np.array([row.size for row in arrays], dtype=np.int64)
    padded = np.full((len(arrays), int(counts.max(initial=1))), absent)
    for number, row in enumerate(arrays):
        padded[number, : row.size] = row
    return padded, counts


def as_probs(rows: Rows) -> tuple[Floats, Integers]:
    """Checked probabilities ``[n, options]`` (absent options 0) and option counts ``[n]``."""
    padded, counts = as_rows(rows, "probabilities", absent=0.0)
    _refuse(
        np.asarray(((padded < 0) | (padded > 1)).any(axis=-1)),
        lambda row: f"probabilities of question {row} lie outside [0, 1]: {padded[row, : counts[row]].tolist()}",
    )
    _refuse(
        np.abs(padded.sum(axis=-1) - 1) > SUM_TOLERANCE,
        lambda row: f"probabilities of question {row} sum to {padded[row].sum():.6g}; they must sum to 1",
    )
    return padded, counts


def as_answers(answers: ArrayLike, counts: Integers) -> Integers:
    """Checked 0-based indices of the right options ``[n]``."""
    given = np.asarray(answers)
    if given.shape != counts.shape:
        raise MetricInputError(f"{counts.size} questions but answers of shape {given.shape}; give one answer each")
    if given.size and not np.issubdtype(given.dtype, np.integer):
        raise MetricInputError(f"answers must be integer option indices, not {given.dtype}")
    indices = given.astype(np.int64)
    _refuse(
        (indices < 0) | (indices >= counts),
        lambda row: f"answer {indices[row]} of question {row} is not one of its options 0 to {counts[row] - 1}",
    )
    return indices


def as_scores(values: ArrayLike, what: str) -> Floats:
    """Checked finite numbers ``[n]``."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1:
        raise MetricInputError(f"{what} must be one number per example; the shape is {scores.shape}")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise MetricInputError(f"{what} hold {scores[bad]} at index {bad}; every value must be a finite number")
    return scores


def as_flags(values: ArrayLike, what: str, n: int) -> Booleans:
    """Checked booleans ``[n]`` (0 and 1 are accepted)."""
    flags = np.asarray(values)
    if flags.shape != (n,):
        raise MetricInputError(f"{what} must be {n} booleans, one per example; the shape is {flags.shape}")
    if flags.dtype != np.bool_ and not np.isin(flags, (0, 1)).all():
        raise MetricInputError(f"{what} must be true or false (1 or 0)")
    return flags.astype(np.bool_)


def _refuse(bad: Booleans, sentence: Callable[[int], str]) -> None:
    """Raises ``MetricInputError`` with the sentence for the first row marked bad."""
    if bad.any():
        raise MetricInputError(sentence(int(np.flatnonzero(bad)[0])))
