"""MCDR: Monte-Carlo dropout on the router's input (thesis §MCDR), averaging routing *probabilities* over the masks.

Averaging logits instead, as the thesis' code does, gives back the deterministic router: the map is linear, the mask
unbiased.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vmoer.rng import MASK_STEPS, TokenNoise
from vmoer.routers.base import BayesianRouter, Posterior, RouterShape

Native = Callable[[Tensor], Tensor]


@dataclass
class DropoutLogits(Posterior):
    """Logits of randomly masked inputs: native(m ⊙ u) + s A (m ⊙ u), m = 0 or 1/(1 − p); ``weight`` is s A."""

    hidden: Tensor
    weight: Tensor
    rate: float
    native: Native | None
    noise_scale: Tensor

    token_axes = (("hidden", 0),)

    @property
    def floats(self) -> int:
        return self.hidden.shape[-1]

    def draw(self, samples: int, noise: TokenNoise) -> Tensor:
        if self.rate == 0.0:
            return self.mean.expand(samples, *self.mean.shape)
        assert self.native is not None, "a dropout router draws only beside its native router"
        keep = noise.keep(samples, self.floats, self.rate)
        inputs = (self.hidden / (1.0 - self.rate) * keep).flatten(0, 1)
        logits = self.native(inputs) + inputs @ self.weight.T
        return self.mean + self.noise_scale * (logits.unflatten(0, (samples, -1)) - self.mean)


class DropoutRouter(BayesianRouter):
    """Dropout of rate p on the input of the native router and of a trained shift A of its weights (0 at the start)."""

    method = "mcdr"

    def __init__(self, shape: RouterShape, *, rate: float = 0.05, **common: Any) -> None:
        super().__init__(shape, **common)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be 0 or more and less than 1, not {rate}.")
        self.rate = float(rate)
        self.weight = nn.Parameter(torch.zeros(shape.n_experts, shape.hidden_size))
        self._native: Native | None = None

    def bind(self, native: Native) -> None:
        self._native = native

    def posterior(self, hidden: Tensor, base_logits: Tensor) -> DropoutLogits:
        weight = self.logit_scale * self.weight
        rate = round(self.rate * MASK_STEPS) / MASK_STEPS  # the rate the masks really have
        return DropoutLogits(base_logits + hidden @ weight.T, hidden, weight, rate, self._native, self.noise_scale)

    def macs(self, samples: int) -> int:
        return self.shape.weights * (1 + 2 * samples)

    def options(self) -> dict[str, Any]:
        return {"rate": self.rate}
