"""SWAGR: stochastic weight averaging, Gaussian, of router weights (thesis §SWAGR; Maddox et al. 2019).

While a router trains, snapshots of its weights are collected; their mean, variances and last deviations make a Gaussian
with covariance ½ [diag(variances) + D Dᵀ / (K − 1)], K columns of deviations in D.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vmoer.routers.base import RouterShape
from vmoer.routers.weights import WeightGaussian, WeightRouter


class SwagRouter(WeightRouter):
    """Moments of snapshots: ``average``, ``std`` ``[experts, hidden]`` and ``factors`` ``[rank, experts, hidden]``."""

    method = "swagr"
    keeps_last_weights: ClassVar[bool] = True

    average: Tensor
    std: Tensor
    factors: Tensor
    collected: Tensor

    def __init__(
        self,
        shape: RouterShape,
        *,
        generator: torch.Generator,
        prior_std: float = 0.5,
        snapshots: int = 20,
        rank: int = 10,
        **common: Any,
    ) -> None:
        super().__init__(shape, generator=generator, prior_std=prior_std, **common)
        if snapshots < 1:
            raise ValueError(f"snapshots must be 1 or more, not {snapshots}.")
        if not 0 <= rank <= snapshots:
            raise ValueError(f"rank must be from 0 to snapshots ({snapshots}), as each gives one column; not {rank}.")
        self.snapshots, self.rank = snapshots, rank
        size = (shape.n_experts, shape.hidden_size)
        self.register_buffer("average", torch.zeros(size))
        self.register_buffer("std", torch.full(size, self.prior_weight_std))
        self.register_buffer("factors", torch.zeros(rank, *size))
        self.register_buffer("collected", torch.zeros(()))

    def posterior(self, hidden: Tensor, base_logits: Tensor) -> WeightGaussian:
        columns = self.collected.clamp(max=self.rank)
        std = torch.where(self.collected > 0, 0.5**0.5, 1.0) * self.std
        factors = self.factors * (2.0 * (columns - 1.0).clamp_min(1.0)).rsqrt()
        return self.gaussian(hidden, base_logits, std, factors)

    def after_step(self, step: int, total: int) -> None:
        """Collect a snapshot at even distances in the second half of the steps (each of them, when they are few)."""
        start, wanted = total // 2, min(self.snapshots, total - total // 2)
        done, before = ((n - start) * wanted // (total - start) for n in (step, step - 1))
        if step > start and done > before:
            self.collect()

    @torch.no_grad()
    def collect(self) -> None:
        """Take the present weights into the moments (Welford's update: no difference of large squares)."""
        squares = self.collected * self.std.square() if self.collected > 0 else torch.zeros_like(self.std)
        before = self.weight - self.average
        self.average += before / (self.collected + 1.0)
        after = self.weight - self.average
        self.std.copy_(((squares + before * after) / (self.collected + 1.0)).clamp_min(0.0).sqrt())
        if self.rank:
            self.factors[int(self.collected) % self.rank] = after
        self.collected += 1.0

    def finish_training(self, curvature: Tensor | None) -> dict[str, float]:
        """Put the mean at the average of the snapshots."""
        if self.collected > 0:
            with torch.no_grad():
                self.weight.copy_(self.average)
        return {"snapshots": float(self.collected)}

    def macs(self, samples: int) -> int:
        drawn = samples * self.rank * self.shape.n_experts
        return self.shape.weights * (1 + samples + self.rank) + drawn

    def options(self) -> dict[str, Any]:
        return {"prior_std": self.prior_std, "snapshots": self.snapshots, "rank": self.rank}
