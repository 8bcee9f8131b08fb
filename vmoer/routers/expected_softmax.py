"""The expectation of a softmax under Gaussian logits, without sampling: what ``in-router`` tends to as S grows.

With independent logits it is one integral, taken here by quadrature. Since 1/Σ_j e^{l_j} = ∫₀^∞ exp(−t Σ_j e^{l_j}) dt
and t = e^{−x},

    E[softmax_i] = ∫ a_i(x) Π_{j≠i} b_j(x) dx,   a_i = E[e^{l_i−x} exp(−e^{l_i−x})],   b_j = E[exp(−e^{l_j−x})],

where a_i and b_j are one-dimensional Gaussian expectations (Gauss–Hermite). Correlations C (the covariance without its
diagonal) enter to first order: by Price's theorem ∂E[f]/∂C_ij = E[∂²f/∂l_i∂l_j], which for the softmax is about
p_m ← p_m exp(−(C p)_m). Strong noise makes two experts rarely likely at once, so C_ij is divided by
√((1 + Σ_ii)(1 + Σ_jj)): a heuristic. ``docs/methods.md`` says how far this is off; a test keeps it true.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

#: points of the outer integral and of the Gaussian expectations inside it
_POINTS, _HERMITE = 32, 12
#: numbers held per token and expert
FLOATS = _POINTS * _HERMITE


def expected_softmax(mean: Tensor, diagonal: Tensor, factor: Tensor | None = None) -> Tensor:
    """E[softmax(l)] ``[tokens, experts]`` for l ~ N(mean, diag(diagonal) + factor factorᵀ).

    ``mean`` and ``diagonal`` are ``[tokens, experts]``, ``factor`` is ``[tokens, experts, r]``. Exact up to quadrature
    without ``factor``, approximate with it.
    """
    own = diagonal if factor is None else diagonal + factor.square().sum(-1)
    probability = _independent(mean, own.sqrt())
    if factor is None:
        return probability
    damped = factor * (1.0 + own).rsqrt()[..., None]
    common = torch.einsum("ter,te->tr", damped, probability)
    pull = torch.einsum("ter,tr->te", damped, common) - damped.square().sum(-1) * probability
    return _normalised(probability * (-pull).exp())


def _independent(mean: Tensor, std: Tensor) -> Tensor:
    """E[softmax(l)] for independent normal logits, all ``[tokens, experts]``."""
    low = (mean - 3.0 * std).amax(-1) - 3.0
    high = (mean + 3.0 * std).amax(-1) + 6.0 + math.log(mean.shape[-1])
    steps = torch.linspace(0.0, 1.0, _POINTS, device=mean.device)
    x = low[:, None] + (high - low)[:, None] * steps
    nodes, weights = (values.to(mean.device) for values in _hermite())
    logits = mean[:, :, None, None] + std[:, :, None, None] * nodes
    rate = (logits - x[:, None, :, None]).exp().clamp_max(1e4)
    survival = (-rate).exp()
    log_b = (survival @ weights).clamp_min(1e-30).log()
    a = (rate * survival) @ weights
    return _normalised((a * (log_b.sum(1, keepdim=True) - log_b).exp()).sum(-1))


@cache
def _hermite() -> tuple[Tensor, Tensor]:
    """Nodes and weights for the expectation under a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_HERMITE)
    return torch.tensor(nodes, dtype=torch.float32), torch.tensor(weights / weights.sum(), dtype=torch.float32)


def _normalised(values: Tensor) -> Tensor:
    return values / values.sum(-1, keepdim=True)
