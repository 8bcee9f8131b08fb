"""MFVR: mean-field variational router, q(l | u) = N(l_det + Δμ(u), diag σ²(u)) (thesis §MFVR, paper VGLR-MF)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vmoer.noise import TokenNoise
from vmoer.routers.base import BayesianRouter, Posterior, RouterShape, linear

#: bounds of log σ relative to the prior's: σ stays within a factor e⁴ of it, so exp can neither overflow nor vanish
LOG_STD_LIMIT = 4.0


@dataclass
class DiagonalGaussian(Posterior):
    """``residual`` and ``std`` are ``[tokens, experts]`` in logits; ``prior_std`` is a scalar in logits."""

    residual: Tensor
    std: Tensor
    prior_std: Tensor
    noise_scale: Tensor

    def draw(self, samples: int, noise: TokenNoise) -> Tensor:
        return self.mean + self.noise_scale * self.std * noise.normal(samples, self.mean.shape[-1])

    def variance(self) -> Tensor:
        return (self.noise_scale * self.std).square().sum(-1)

    def kl(self) -> Tensor:
        """½ Σᵢ [σᵢ²/τ² + Δμᵢ²/τ² − 1 − log(σᵢ²/τ²)] with prior N(l_det, τ² I)."""
        ratio = self.std / self.prior_std
        shift = self.residual / self.prior_std
        return 0.5 * (ratio.square() + shift.square() - 1.0 - 2.0 * ratio.log()).sum(-1)

    def chunk(self, start: int, stop: int) -> DiagonalGaussian:
        part = slice(start, stop)
        return DiagonalGaussian(self.mean[part], self.residual[part], self.std[part], self.prior_std, self.noise_scale)


class MeanFieldRouter(BayesianRouter):
    """Residual mean: one linear map, zero at the start. log σ: H → H/4 → E with ReLU; σ = prior std at the start."""

    method = "mfvr"

    def __init__(
        self,
        shape: RouterShape,
        *,
        generator: torch.Generator,
        prior_std: float = 0.5,
        trunk_width: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(shape, generator=generator, **common)
        if not prior_std > 0:
            raise ValueError(f"prior_std must be positive, not {prior_std}.")
        self.prior_std = float(prior_std)
        self.trunk_width = max(shape.hidden_size // 4, 1) if trunk_width is None else trunk_width
        if self.trunk_width < 1:
            raise ValueError(f"trunk_width must be 1 or more, not {trunk_width}.")
        self.mean_head = linear(shape.n_experts, shape.hidden_size, generator, std=0.0)
        self.trunk = linear(self.trunk_width, shape.hidden_size, generator)
        self.log_std_head = linear(shape.n_experts, self.trunk_width, generator, std=1e-3)

    def posterior(self, hidden: Tensor, base_logits: Tensor) -> DiagonalGaussian:
        prior_std = self.logit_scale * self.prior_std
        residual = self.logit_scale * self.mean_head(hidden)
        log_std = bounded(self.log_std_head(torch.relu(self.trunk(hidden))))
        return DiagonalGaussian(
            base_logits + residual, residual, prior_std * log_std.exp(), prior_std, self.noise_scale
        )

    def options(self) -> dict[str, Any]:
        return {"prior_std": self.prior_std, "trunk_width": self.trunk_width}


def bounded(log_std: Tensor) -> Tensor:
    """Smoothly bounded to ±``LOG_STD_LIMIT``; the identity to first order at 0."""
    return LOG_STD_LIMIT * torch.tanh(log_std / LOG_STD_LIMIT)
