"""The native router itself, as a posterior without width (the baseline, called MAP in the thesis)."""

from __future__ import annotations

from torch import Tensor

from vmoer.rng import TokenNoise
from vmoer.routers.base import BayesianRouter, Posterior


class PointMass(Posterior):
    """All mass on the native logits: every draw is the mean, variance and KL do not apply."""

    stochastic = False

    def draw(self, samples: int, noise: TokenNoise) -> Tensor:
        return self.mean.expand(samples, *self.mean.shape)


class DeterministicRouter(BayesianRouter):
    """Routes exactly as the model would without this library."""

    method = "deterministic"
    trainable = False
    closed_form = True

    def posterior(self, hidden: Tensor, base_logits: Tensor) -> PointMass:
        return PointMass(base_logits)

    def macs(self, samples: int) -> int:
        return 0
