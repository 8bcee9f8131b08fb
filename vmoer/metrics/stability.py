"""Routing stability: how much of a token's expert set survives a small push of the router's input.

The Jaccard index of two sets of k experts has a chance level that grows with k / E (0.117 for 8 of 40, 0.5 for 24 of
36), so one fixed line cannot serve all models. The rule here keeps the published line where it was drawn and moves it
with the chance level everywhere else: a layer is susceptible when it keeps less than ``KEPT`` of the agreement that is
possible beyond chance, and ``KEPT`` = (0.6 − 0.117) / (1 − 0.117) = 0.547 is what the 0.6 line means for the model it
was drawn for (8 of 40 experts; there 0.6 is 6 of 8 experts kept).
"""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vmoer.metrics._inputs import Floats, Integers, MetricInputError, as_scores
from vmoer.metrics.bootstrap import N_RESAMPLES, Interval, Seed, interval

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Quantiles over tokens stored for each layer and noise level."""


def overlap(first: ArrayLike, second: ArrayLike) -> Integers:
    """Number of experts in both sets ``[...]``, from expert indices ``[..., k]``; the sizes k may differ."""
    a, b = _expert_sets(first), _expert_sets(second)
    if a.shape[:-1] != b.shape[:-1]:
        raise MetricInputError(f"expert sets of different tokens: shapes {a.shape} and {b.shape}")
    shared = np.zeros(a.shape[:-1], dtype=np.int64)
    for column in range(b.shape[-1]):  # k comparisons of [tokens, k] keep memory at one k, not k²
        shared += (a == b[..., column, None]).any(axis=-1)
    return shared


def jaccard(first: ArrayLike, second: ArrayLike) -> Floats:
    """|A ∩ B| / |A ∪ B| of the expert sets ``[...]``, 0 to 1, from expert indices ``[..., k]`` in any order."""
    shared = overlap(first, second)
    return shared / (np.shape(first)[-1] + np.shape(second)[-1] - shared)


def chance_jaccard(k: int, n_experts: int) -> float:
    """Expected Jaccard index of two independent random k-of-E sets, exactly: Σᵢ P(i shared) · i / (2k − i).

    The number shared is hypergeometric: P(i) = C(k, i) · C(E − k, k − i) / C(E, k).
    """
    if not 1 <= k <= n_experts:
        raise MetricInputError(f"k must lie between 1 and the number of experts {n_experts}; it is {k}")
    every = comb(n_experts, k)
    return sum(comb(k, i) * comb(n_experts - k, k - i) / every * i / (2 * k - i) for i in range(1, k + 1))


KEPT = (0.6 - chance_jaccard(8, 40)) / (1 - chance_jaccard(8, 40))
"""Share of the agreement beyond chance that a layer must keep (0.547)."""


def susceptibility_threshold(k: int, n_experts: int) -> float:
    """Mean Jaccard index below which a layer is susceptible: chance + ``KEPT`` · (1 − chance); 0.6 for 8 of 40."""
    chance = chance_jaccard(k, n_experts)
    return chance + KEPT * (1 - chance)


def is_susceptible(mean_jaccard: float, k: int, n_experts: int) -> bool:
    """Whether the mean lies below the threshold; never when k = E, where routing cannot change at all."""
    return k < n_experts and mean_jaccard < susceptibility_threshold(k, n_experts)


def layer_stability(
    token_jaccard: ArrayLike,
    example: ArrayLike,
    k: int,
    n_experts: int,
    n_resamples: int = N_RESAMPLES,
    seed: Seed = 0,
) -> dict[str, Any]:
    """Columns ``jaccard`` … ``quantiles`` of one row of ``layer_susceptibility``.

    ``token_jaccard`` and ``example`` are ``[tokens]``: the index, and which example the token belongs to. The interval
    resamples whole examples, because the tokens of one prompt are not independent.
    """
    values = as_scores(token_jaccard, "Jaccard indices")
    owner = np.asarray(example)
    if owner.shape != values.shape:
        raise MetricInputError(f"{values.size} tokens but example labels of shape {owner.shape}; give one each")
    if not values.size:
        raise MetricInputError("the stability of a layer needs at least one token")
    if (values < 0).any() or (values > 1).any():
        raise MetricInputError("Jaccard indices must lie in [0, 1]")
    within = mean_interval_by_example(values, owner, n_resamples, seed).clipped(0, 1)
    mean = float(values.mean())
    return {
        "jaccard": mean,
        "ci_low": within.low,
        "ci_high": within.high,
        "chance": chance_jaccard(k, n_experts),
        "threshold": susceptibility_threshold(k, n_experts),
        "susceptible": is_susceptible(mean, k, n_experts),
        "n": values.size,
        "quantiles": np.quantile(values, QUANTILES).tolist(),
    }


def numeric_stability(
    token_jaccard: ArrayLike, example: ArrayLike, n_resamples: int = N_RESAMPLES, seed: Seed = 0
) -> dict[str, Any]:
    """Columns ``changed`` … ``n`` of one row of ``noise_floor``; arguments as :func:`layer_stability`."""
    values = as_scores(token_jaccard, "Jaccard indices")
    if not values.size:
        raise MetricInputError("the noise floor of a layer needs at least one token")
    differs = (values < 1).astype(np.float64)
    within = mean_interval_by_example(differs, example, n_resamples, seed).clipped(0, 1)
    return {
        "changed": int(differs.sum()),
        "share_changed": float(differs.mean()),
        "ci_low": within.low,
        "ci_high": within.high,
        "jaccard": float(values.mean()),
        "n": values.size,
    }


def mean_interval_by_example(
    values: Floats, example: ArrayLike, n_resamples: int = N_RESAMPLES, seed: Seed = 0
) -> Interval:
    """Bootstrap interval of the mean over tokens, resampling whole examples (a cluster bootstrap)."""
    _, owner = np.unique(np.asarray(example), return_inverse=True)
    tokens = np.bincount(owner).astype(np.float64)
    sums = np.bincount(owner, weights=values)
    return interval(
        lambda total, count: total.sum(axis=-1) / count.sum(axis=-1), sums, tokens, n_resamples=n_resamples, seed=seed
    )


def _expert_sets(index: ArrayLike) -> NDArray[Any]:
    sets = np.asarray(index)
    if sets.ndim == 0 or sets.shape[-1] == 0 or not np.issubdtype(sets.dtype, np.integer):
        raise MetricInputError(f"expert sets must be integers [..., k] with k ≥ 1; got {sets.dtype} {sets.shape}")
    ordered = np.sort(sets, axis=-1)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        raise MetricInputError("an expert set names an expert twice; the k experts of a token must differ")
    return sets
