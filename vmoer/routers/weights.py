"""Weight-space posteriors: W + s (A + δ), with δ drawn once per sample and shared by all tokens of a router.

A and δ are in units of the router's logit spread s, as the shifts of the logit-space methods are. The native weights W
are never touched: A u and δ u are added to the native logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vmoer.rng import TokenNoise
from vmoer.routers.base import BayesianRouter, Posterior, RouterShape, positive
from vmoer.routers.expected_softmax import expected_softmax

#: weights drawn at once per router call; bounds memory at about 4 × 4 bytes × this
WEIGHT_BUDGET = 8_000_000


@dataclass
class WeightGaussian(Posterior):
    """δ ~ N(0, diag(std²) + Σ_k F_k F_kᵀ); ``std`` ``[experts, hidden]``, ``factors`` ``[K, experts, hidden]``.

    ``scale`` turns A into logits: s times the noise scale. ``hidden`` is ``[tokens, hidden]``.
    """

    hidden: Tensor
    std: Tensor
    factors: Tensor
    scale: Tensor

    token_axes = (("hidden", 0),)

    def draw(self, samples: int, noise: TokenNoise) -> Tensor:
        columns = self._columns()
        if noise.sample is None:
            group = max(WEIGHT_BUDGET // self.std.numel(), 1)
            numbers = torch.arange(samples, device=self.std.device).split(group)
            spread = torch.cat([self._spread(noise, part, self.hidden, columns) for part in numbers])
            return self.mean + self.scale * spread
        spread = torch.zeros_like(self.mean)
        for number in noise.sample.unique():
            mine = noise.sample == number
            spread[mine] = self._spread(noise, number[None], self.hidden[mine], columns[mine])[0]
        return (self.mean + self.scale * spread)[None]

    def _spread(self, noise: TokenNoise, numbers: Tensor, hidden: Tensor, columns: Tensor) -> Tensor:
        """δ u ``[n, tokens, experts]`` for the given sample numbers; only the diagonal part of δ is ever formed."""
        entries = self.std.numel()
        standard = noise.shared(numbers).normal(1, entries + columns.shape[-1])[0]
        weights = self.std * standard[:, :entries].unflatten(-1, self.std.shape)
        spread = torch.einsum("neh,th->nte", weights, hidden)
        return spread + torch.einsum("nk,tek->nte", standard[:, entries:], columns)

    def _columns(self) -> Tensor:
        """F u ``[tokens, experts, K]``."""
        return torch.einsum("keh,th->tek", self.factors, self.hidden)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Covariance of the logits as a diagonal ``[tokens, experts]`` and factors ``[tokens, experts, K]``."""
        diagonal = self.scale.square() * (self.hidden.square() @ self.std.square().T)
        return diagonal, self.scale * self._columns()

    def variance(self) -> Tensor:
        diagonal, factors = self._moments()
        return diagonal.sum(-1) + factors.square().sum((-2, -1))

    def expectation(self) -> Tensor:
        return expected_softmax(self.mean, *self._moments())


class WeightRouter(BayesianRouter):
    """A trained shift A (``weight`` ``[experts, hidden]``, zero at the start) and a Gaussian around it.

    The spread is fitted after A, so A is trained without noise. Until then it is the prior's: N(0, τ²) per entry with
    τ = ``prior_std`` / √H, which gives router inputs of unit RMS a logit standard deviation of ``prior_std`` · s.
    """

    closed_form: ClassVar[bool] = True
    fits_variance_after: ClassVar[bool] = True

    def __init__(
        self, shape: RouterShape, *, generator: torch.Generator, prior_std: float = 0.5, **common: Any
    ) -> None:
        super().__init__(shape, generator=generator, **common)
        self.prior_std = positive("prior_std", prior_std)
        self.weight = nn.Parameter(torch.zeros(shape.n_experts, shape.hidden_size))

    @property
    def prior_weight_std(self) -> float:
        """τ, the prior's standard deviation of one entry of A."""
        return float(self.prior_std * self.shape.hidden_size**-0.5)

    def gaussian(self, hidden: Tensor, base_logits: Tensor, std: Tensor, factors: Tensor) -> WeightGaussian:
        """The posterior with A as its mean."""
        mean = base_logits + self.logit_scale * (hidden @ self.weight.T)
        return WeightGaussian(mean, hidden, std, factors, self.logit_scale * self.noise_scale)
