"""FCVR with a structured covariance, q(l | u) = N(l_det + Δμ(u), D(u) + U(u) U(u)ᵀ): linear in the experts.

Nothing of size E × E is ever formed: draws are mean + √D ε₁ + U ε₂, and log det Σ = log det D + log det(I + Uᵀ D⁻¹ U)
by the matrix determinant lemma, a determinant of size r.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vmoer.rng import TokenNoise
from vmoer.routers.base import BayesianRouter, Posterior, RouterShape, linear, positive, products
from vmoer.routers.expected_softmax import expected_softmax
from vmoer.routers.mfvr import bounded, check_trunk

DEFAULT_RANK = 8


@dataclass
class LowRankGaussian(Posterior):
    """``std`` ``[tokens, experts]`` is √D, ``factor`` ``[tokens, experts, rank]`` is U: both in units of the prior."""

    residual: Tensor
    std: Tensor
    factor: Tensor
    prior_std: Tensor
    noise_scale: Tensor

    token_axes = (("residual", 0), ("std", 0), ("factor", 0))

    def draw(self, samples: int, noise: TokenNoise) -> Tensor:
        experts, rank = self.factor.shape[-2:]
        standard = noise.normal(samples, experts + rank)
        spread = self.std * standard[..., :experts]
        spread = spread + torch.einsum("ter,str->ste", self.factor, standard[..., experts:])
        return self.mean + self.noise_scale * self.prior_std * spread

    def variance(self) -> Tensor:
        """tr Σ = Σᵢ Dᵢ + ‖U‖²_F."""
        trace = self.std.square().sum(-1) + self.factor.square().sum((-2, -1))
        return (self.noise_scale * self.prior_std).square() * trace

    def kl(self) -> Tensor:
        """½ [tr Σ/τ² + ‖Δμ‖²/τ² − E − log det(Σ/τ²)] with prior N(l_det, τ² I).

        The small determinant is taken in double precision (where the device has it): strong factors hide the identity.
        """
        trace = self.std.square().sum(-1) + self.factor.square().sum((-2, -1))
        shift = (self.residual / self.prior_std).square().sum(-1)
        scaled = self.factor / self.std[..., None]
        scaled = scaled if scaled.device.type == "mps" else scaled.double()
        identity = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
        small = identity + scaled.transpose(-2, -1) @ scaled
        log_det = 2.0 * self.std.log().sum(-1) + torch.linalg.slogdet(small).logabsdet.to(trace.dtype)
        return 0.5 * (trace + shift - self.std.shape[-1] - log_det)

    def expectation(self) -> Tensor:
        scale = self.noise_scale * self.prior_std
        return expected_softmax(self.mean, (scale * self.std).square(), scale * self.factor)


class LowRankRouter(BayesianRouter):
    """A shared trunk H → H/8 (ReLU) feeds the residual mean (zero at the start), √D (1) and U (nearly 0)."""

    method = "fcvr-lowrank"
    closed_form = True
    spread_heads = ("log_std_head", "factor_head")

    def __init__(
        self,
        shape: RouterShape,
        *,
        generator: torch.Generator,
        prior_std: float = 0.5,
        rank: int | None = None,
        trunk_width: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(shape, generator=generator, **common)
        self.prior_std = positive("prior_std", prior_std)
        experts = shape.n_experts
        self.rank = min(DEFAULT_RANK, experts) if rank is None else rank
        if not 1 <= self.rank <= experts:
            raise ValueError(f"rank must be from 1 to the number of experts ({experts}), not {rank}.")
        self.trunk_width = check_trunk("shared", trunk_width, max(shape.hidden_size // 8, 1))
        self.trunk = linear(self.trunk_width, shape.hidden_size, generator)
        self.mean_head = linear(experts, self.trunk_width, generator, std=0.0)
        self.log_std_head = linear(experts, self.trunk_width, generator, std=1e-3)
        self.factor_head = linear(experts * self.rank, self.trunk_width, generator, std=1e-3)

    def posterior(self, hidden: Tensor, base_logits: Tensor) -> LowRankGaussian:
        features = torch.relu(self.trunk(hidden))
        residual = self.logit_scale * self.mean_head(features)
        factor = bounded(self.factor_head(features)).unflatten(-1, (self.shape.n_experts, self.rank))
        return LowRankGaussian(
            base_logits + residual,
            residual,
            bounded(self.log_std_head(features)).exp(),
            factor,
            self.logit_scale * self.prior_std,
            self.noise_scale,
        )

    def macs(self, samples: int) -> int:
        return products(self) + samples * self.shape.n_experts * (self.rank + 1)

    def options(self) -> dict[str, Any]:
        return {"prior_std": self.prior_std, "rank": self.rank, "trunk_width": self.trunk_width}
