"""Laplace: a Gaussian around trained router weights whose precision is the curvature of the task loss plus the prior's.

The curvature is that of the answer log-likelihood *through the whole model* (:mod:`vmoer.training.curvature`), one
entry per weight; the thesis' code took it from a classification of router inputs into the router's own choices, which
no answer enters.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from vmoer.routers.base import RouterShape
from vmoer.routers.weights import WeightGaussian, WeightRouter

#: the prior's standard deviation stays within this factor (as a logarithm) of what it was set to
PRIOR_RANGE = 4.0


class LaplaceRouter(WeightRouter):
    """δ ~ N(0, 1 / (``curvature`` + ``precision``)) per weight; no curvature and the prior's precision at the start."""

    method = "laplace"
    needs_curvature: ClassVar[bool] = True

    curvature: Tensor
    precision: Tensor

    def __init__(
        self, shape: RouterShape, *, generator: torch.Generator, prior_std: float = 0.5, **common: Any
    ) -> None:
        super().__init__(shape, generator=generator, prior_std=prior_std, **common)
        self.register_buffer("curvature", torch.zeros(shape.n_experts, shape.hidden_size))
        self.register_buffer("precision", torch.tensor(self.prior_weight_std**-2))

    def posterior(self, hidden: Tensor, base_logits: Tensor) -> WeightGaussian:
        std = (self.curvature + self.precision).rsqrt()
        return self.gaussian(hidden, base_logits, std, std.new_zeros(0, *std.shape))

    def finish_training(self, curvature: Tensor | None) -> dict[str, float]:
        """Keep the curvature at the trained weights and choose the prior precision by the evidence."""
        assert curvature is not None  # needs_curvature
        self.curvature.copy_(curvature)
        self.precision.fill_(best_precision(curvature, self.weight.detach(), self.prior_weight_std))
        return {
            "prior_std": float(self.precision.rsqrt()) * self.shape.hidden_size**0.5,
            "posterior_weight_std": float((self.curvature + self.precision).rsqrt().mean()),
        }

    def macs(self, samples: int) -> int:
        return self.shape.weights * (1 + samples)

    def options(self) -> dict[str, Any]:
        return {"prior_std": self.prior_std}


def log_evidence(curvature: Tensor, weight: Tensor, precision: Tensor) -> Tensor:
    """Log marginal likelihood under prior N(0, 1/precision) minus the log-likelihood at ``weight`` (Laplace)."""
    spread = 0.5 * (precision.log() - (curvature + precision).log()).sum()
    return spread - 0.5 * precision * weight.square().sum()


def best_precision(curvature: Tensor, weight: Tensor, prior_std: float) -> float:
    """The precision of greatest evidence on a logarithmic grid around ``prior_std``⁻²: a factor e^±8, 161 steps."""
    steps = torch.linspace(-2.0 * PRIOR_RANGE, 2.0 * PRIOR_RANGE, 161, dtype=torch.float64)
    grid = (steps - 2.0 * math.log(prior_std)).exp()
    values = [log_evidence(curvature.double().cpu(), weight.double().cpu(), precision) for precision in grid]
    return float(grid[torch.stack(values).argmax()])
