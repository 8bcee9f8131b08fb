"""DER: a deep ensemble of routers (thesis §DER), M shifts of the native weights trained independently of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vmoer.rng import TokenNoise
from vmoer.routers.base import BayesianRouter, Posterior, RouterShape, positive


@dataclass
class Ensemble(Posterior):
    """Uniform over M members, whose logits are ``members`` ``[M, tokens, experts]``. Sample s is member s mod M."""

    members: Tensor

    token_axes = (("members", 1),)

    @property
    def support(self) -> int:
        return self.members.shape[0]

    def draw(self, samples: int, noise: TokenNoise) -> Tensor:
        if noise.sample is None:
            return self.members[torch.arange(samples, device=self.members.device) % self.support]
        token = torch.arange(self.members.shape[1], device=self.members.device)
        return self.members[noise.sample % self.support, token][None]

    def variance(self) -> Tensor:
        return (self.members - self.mean).square().mean(0).sum(-1)

    def expectation(self) -> Tensor:
        """Exact: the mean over all members."""
        return torch.softmax(self.members, dim=-1).mean(0)


class EnsembleRouter(BayesianRouter):
    """``weights`` ``[M, experts, hidden]``: each member's shift of the native weights, in units of the logit spread.

    The initial shifts come in pairs of opposite sign (one of an odd number is zero), so that a fresh ensemble is
    centred on the native router. ``noise_scale`` multiplies the members' distance from their mean.
    """

    method = "der"
    closed_form = True

    def __init__(
        self,
        shape: RouterShape,
        *,
        generator: torch.Generator,
        members: int = 4,
        init_std: float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(shape, generator=generator, **common)
        if members < 2:
            raise ValueError(f"members must be 2 or more, not {members}.")
        self.support = members
        self.init_std = positive("init_std", init_std)
        half = torch.empty(members // 2, shape.n_experts, shape.hidden_size)
        half.normal_(0.0, self.init_std * shape.hidden_size**-0.5, generator=generator)
        pairs = torch.stack([half, -half], dim=1).flatten(0, 1)
        odd = pairs.new_zeros(members % 2, *pairs.shape[1:])
        self.weights = nn.Parameter(torch.cat([pairs, odd]))

    def posterior(self, hidden: Tensor, base_logits: Tensor) -> Ensemble:
        centre = sum(self.weights[1:], self.weights[0]) / len(self.weights)  # in this order the pairs cancel exactly
        weights = (1.0 - self.noise_scale) * centre + self.noise_scale * self.weights
        shifts = (hidden @ weights.flatten(0, 1).T).unflatten(-1, weights.shape[:2]).transpose(0, 1)
        members = base_logits + self.logit_scale * shifts
        mean = members[0] + (members - members[0]).mean(0)  # exactly the members, when they are all alike
        return Ensemble(mean, members)

    def macs(self, samples: int) -> int:
        return len(self.weights) * self.shape.weights

    def options(self) -> dict[str, Any]:
        return {"members": self.support, "init_std": self.init_std}
