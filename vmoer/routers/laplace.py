"""Laplace: a Gaussian around trained router weights whose precision is the curvature of the task loss plus the prior's.

The curvature is that of the answer log-likelihood *through the whole model* (:mod:`vmoer.laplace`), one entry per
weight; the thesis' code took it from a classification of router inputs into the router's own choices, which no answer
enters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vmoer.routers.base import RouterShape
from vmoer.routers.weights import WeightGaussian, WeightRouter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmoer.handle import Handle
    from vmoer.training import Example, TrainingConfig


class LaplaceRouter(WeightRouter):
    """δ ~ N(0, 1 / (``curvature`` + ``precision``)) per weight; no curvature and the prior's precision at the start."""

    method = "laplace"

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

    @classmethod
    def fit_spread(
        cls, handle: Handle, examples: Sequence[Example], config: TrainingConfig
    ) -> list[tuple[int, str, float]]:
        """Curvature at the trained weights from ``examples``, prior precision by the evidence."""
        from vmoer.laplace import fit

        return fit(handle, examples, micro_batch=config.micro_batch, seed=config.sampling_seed)

    def options(self) -> dict[str, Any]:
        return {"prior_std": self.prior_std}
