"""MFVR: mean-field variational router, q(l | u) = N(l_det + Δμ(u), diag σ²(u)) (thesis §MFVR, paper VGLR-MF)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vmoer.rng import TokenNoise
from vmoer.routers.base import BayesianRouter, Posterior, RouterShape, linear, positive, products
from vmoer.routers.expected_softmax import expected_softmax

#: bounds of log σ relative to the prior's: σ stays within a factor e⁴ of it, so exp can neither overflow nor vanish
LOG_STD_LIMIT = 4.0


@dataclass
class DiagonalGaussian(Posterior):
    """``residual`` and ``std`` are ``[tokens, experts]`` in logits; ``prior_std`` is a scalar in logits."""

    residual: Tensor
    std: Tensor
    prior_std: Tensor
    noise_scale: Tensor

    token_axes = (("residual", 0), ("std", 0))

    def draw(self, samples: int, noise: TokenNoise) -> Tensor:
        return self.mean + self.noise_scale * self.std * noise.normal(samples, self.mean.shape[-1])

    def variance(self) -> Tensor:
        return (self.noise_scale * self.std).square().sum(-1)

    def kl(self) -> Tensor:
        """½ Σᵢ [σᵢ²/τ² + Δμᵢ²/τ² − 1 − log(σᵢ²/τ²)] with prior N(l_det, τ² I)."""
        ratio = self.std / self.prior_std
        shift = self.residual / self.prior_std
        return 0.5 * (ratio.square() + shift.square() - 1.0 - 2.0 * ratio.log()).sum(-1)

    def expectation(self) -> Tensor:
        return expected_softmax(self.mean, (self.noise_scale * self.std).square())


class MeanFieldRouter(BayesianRouter):
    """Residual mean: linear, zero at the start. log σ: trunk H → H/4 (ReLU) → E; σ = prior std at the start.

    The mean reads the router's input (``trunk="separate"``) or the trunk's features (``"shared"``).
    """

    method = "mfvr"
    closed_form = True
    spread_heads = ("log_std_head",)

    def __init__(
        self,
        shape: RouterShape,
        *,
        generator: torch.Generator,
        prior_std: float = 0.5,
        trunk_width: int | None = None,
        trunk: str = "separate",
        **common: Any,
    ) -> None:
        super().__init__(shape, generator=generator, **common)
        self.prior_std = positive("prior_std", prior_std)
        self.trunk_width = check_trunk(trunk, trunk_width, max(shape.hidden_size // 4, 1))
        self.trunk_kind = trunk
        mean_width = self.trunk_width if trunk == "shared" else shape.hidden_size
        self.mean_head = linear(shape.n_experts, mean_width, generator, std=0.0)
        self.trunk = linear(self.trunk_width, shape.hidden_size, generator)
        self.log_std_head = linear(shape.n_experts, self.trunk_width, generator, std=1e-3)

    def posterior(self, hidden: Tensor, base_logits: Tensor) -> DiagonalGaussian:
        prior_std = self.logit_scale * self.prior_std
        features = torch.relu(self.trunk(hidden))
        residual = self.logit_scale * self.mean_head(features if self.trunk_kind == "shared" else hidden)
        log_std = bounded(self.log_std_head(features))
        return DiagonalGaussian(
            base_logits + residual, residual, prior_std * log_std.exp(), prior_std, self.noise_scale
        )

    def macs(self, samples: int) -> int:
        return products(self) + samples * self.shape.n_experts

    def options(self) -> dict[str, Any]:
        return {"prior_std": self.prior_std, "trunk_width": self.trunk_width, "trunk": self.trunk_kind}


def check_trunk(kind: str, width: int | None, default: int) -> int:
    """The width of a trunk, ``default`` when ``None``; ``kind`` is ``shared`` or ``separate``."""
    if kind not in ("shared", "separate"):
        raise ValueError(f"trunk must be 'shared' or 'separate', not {kind!r}.")
    if width is not None and width < 1:
        raise ValueError(f"trunk_width must be 1 or more, not {width}.")
    return default if width is None else width


def bounded(log_std: Tensor) -> Tensor:
    """Smoothly bounded to ±``LOG_STD_LIMIT``; the identity to first order at 0."""
    return LOG_STD_LIMIT * torch.tanh(log_std / LOG_STD_LIMIT)
