"""Uncertainty of an answer, from its probabilities or from those of several routing samples; all in nats or shares.

Sample probabilities are ``[samples, n, options]``; where questions have fewer options than the widest one, the absent
options carry probability 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vmoer.metrics._inputs import SUM_TOLERANCE, Floats, MetricInputError, Rows, as_probs


def predictive_entropy(probs: Rows) -> Floats:
    """Entropy of each question's option probabilities ``[n]``, in nats: 0 to ln(options)."""
    return entropy(as_probs(probs)[0])


def one_minus_max_prob(probs: Rows) -> Floats:
    """1 − largest option probability ``[n]``: 0 to 1 − 1/options."""
    return 1 - as_probs(probs)[0].max(axis=-1, initial=0.0)


def mutual_information(sample_probs: ArrayLike) -> Floats:
    """Entropy of the mean answer minus mean entropy of the samples ``[n]``, in nats; 0 when all samples agree.

    It is what the routing posterior adds to the uncertainty of the answer. Needs at least two samples.
    """
    samples = _samples(sample_probs)
    # Rounding can take a true 0 a hair below it; the quantity itself cannot be negative (Jensen).
    return np.maximum(entropy(samples.mean(axis=0)) - entropy(samples).mean(axis=0), 0.0)


def variation_ratio(sample_probs: ArrayLike) -> Floats:
    """Share of samples whose most probable option is not the most common one ``[n]``: 0 to 1 − 1/options."""
    samples = _samples(sample_probs)
    votes = samples.argmax(axis=-1)
    counts = (votes[..., None] == np.arange(samples.shape[-1])).sum(axis=0)
    return 1 - counts.max(axis=-1, initial=0) / samples.shape[0]


def entropy(probs: Floats) -> Floats:
    """−Σ p ln p over the last axis, in nats, with 0·ln 0 = 0."""
    safe = np.where(probs > 0, probs, 1.0)
    return np.maximum(-(probs * np.log(safe)).sum(axis=-1), 0.0)


def _samples(sample_probs: ArrayLike) -> Floats:
    samples = np.asarray(sample_probs, dtype=np.float64)
    if samples.ndim != 3:
        raise MetricInputError(f"sample probabilities must be [samples, n, options]; the shape is {samples.shape}")
    if samples.shape[0] < 2:
        raise MetricInputError(f"disagreement between samples needs at least 2 of them; there are {samples.shape[0]}")
    if not np.isfinite(samples).all() or (samples < 0).any() or (samples > 1).any():
        raise MetricInputError("sample probabilities must be finite numbers in [0, 1]")
    if (np.abs(samples.sum(axis=-1) - 1) > SUM_TOLERANCE).any():
        raise MetricInputError("sample probabilities must sum to 1 over the options of each question")
    return samples
