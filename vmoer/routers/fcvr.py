"""FCVR: full-covariance variational router, q(l | u) = N(l_det + Δμ(u), L(u) L(u)ᵀ) (thesis §FCVR, paper VGLR-FC)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vmoer.rng import TokenNoise
from vmoer.routers.base import BayesianRouter, Posterior, RouterShape, linear, positive, products
from vmoer.routers.expected_softmax import expected_softmax
from vmoer.routers.mfvr import bounded, check_trunk


@dataclass
class CholeskyGaussian(Posterior):
    """``cholesky`` is ``[tokens, experts, experts]`` lower triangular, in logits; ``prior_std`` a scalar in logits."""

    residual: Tensor
    cholesky: Tensor
    prior_std: Tensor
    noise_scale: Tensor

    token_axes = (("residual", 0), ("cholesky", 0))

    def draw(self, samples: int, noise: TokenNoise) -> Tensor:
        standard = noise.normal(samples, self.mean.shape[-1])
        return self.mean + self.noise_scale * torch.einsum("tij,stj->sti", self.cholesky, standard)

    def variance(self) -> Tensor:
        """tr Σ = ‖L‖²_F, the paper's inferred logit variance."""
        return self.noise_scale.square() * self.cholesky.square().sum((-2, -1))

    def kl(self) -> Tensor:
        """½ [‖L‖²_F/τ² + ‖Δμ‖²/τ² − E − 2 Σᵢ log(Lᵢᵢ/τ)] with prior N(l_det, τ² I)."""
        diagonal = self.cholesky.diagonal(dim1=-2, dim2=-1) / self.prior_std
        spread = self.cholesky.square().sum((-2, -1)) / self.prior_std.square()
        shift = self.residual.square().sum(-1) / self.prior_std.square()
        return 0.5 * (spread + shift - diagonal.shape[-1] - 2.0 * diagonal.log().sum(-1))

    def expectation(self) -> Tensor:
        return expected_softmax(self.mean, torch.zeros_like(self.mean), self.noise_scale * self.cholesky)


class FullCovarianceRouter(BayesianRouter):
    """A trunk H → H/4 (ReLU) feeds the Cholesky factor (τ I at the start) and, when shared, the residual mean (zero).

    With ``trunk="separate"`` (thesis) the mean is a linear map of the router's input.
    """

    method = "fcvr"
    closed_form = True
    spread_heads = ("cholesky_head",)

    def __init__(
        self,
        shape: RouterShape,
        *,
        generator: torch.Generator,
        prior_std: float = 0.5,
        trunk_width: int | None = None,
        trunk: str = "shared",
        **common: Any,
    ) -> None:
        super().__init__(shape, generator=generator, **common)
        self.prior_std = positive("prior_std", prior_std)
        self.trunk_width = check_trunk(trunk, trunk_width, max(shape.hidden_size // 4, 1))
        self.trunk_kind = trunk
        experts = shape.n_experts
        mean_width = self.trunk_width if trunk == "shared" else shape.hidden_size
        self.trunk = linear(self.trunk_width, shape.hidden_size, generator)
        self.mean_head = linear(experts, mean_width, generator, std=0.0)
        self.cholesky_head = linear(experts * (experts + 1) // 2, self.trunk_width, generator, std=1e-3)

    def posterior(self, hidden: Tensor, base_logits: Tensor) -> CholeskyGaussian:
        prior_std = self.logit_scale * self.prior_std
        features = torch.relu(self.trunk(hidden))
        residual = self.logit_scale * self.mean_head(features if self.trunk_kind == "shared" else hidden)
        cholesky = prior_std * self._triangle(self.cholesky_head(features))
        return CholeskyGaussian(base_logits + residual, residual, cholesky, prior_std, self.noise_scale)

    def _triangle(self, entries: Tensor) -> Tensor:
        experts = self.shape.n_experts
        rows, columns = torch.tril_indices(experts, experts, device=entries.device)
        values = torch.where(rows == columns, bounded(entries).exp(), entries)
        factor = entries.new_zeros(*entries.shape[:-1], experts, experts)
        factor[..., rows, columns] = values
        return factor

    def macs(self, samples: int) -> int:
        return products(self) + samples * self.shape.n_experts**2

    def options(self) -> dict[str, Any]:
        return {"prior_std": self.prior_std, "trunk_width": self.trunk_width, "trunk": self.trunk_kind}
