"""Temperature sampling: k experts drawn without replacement from softmax(l / T), gates from the unscaled logits.

Drawing without replacement from softmax(l / T) equals taking the top k of l / T + Gumbel noise, and so of l + T·Gumbel,
which stays finite as T → 0 and then *is* the native router (thesis, temperature-sampling baseline).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from vmoer.rng import TokenNoise
from vmoer.routers.base import BayesianRouter, Posterior, RouterShape


@dataclass
class GumbelTopK(Posterior):
    """Selection scores l + T·g with g standard Gumbel; ``temperature`` is ``[tokens]``."""

    def draw(self, samples: int, noise: TokenNoise) -> Tensor:
        assert self.temperature is not None
        return self.mean + self.temperature[:, None] * noise.gumbel(samples, self.mean.shape[-1])


class TemperatureRouter(BayesianRouter):
    """Selection-space sampling at one fixed temperature, in units of the router's own logit spread.

    With ``unit="logits"`` the temperature is in logits (1 = the router's own softmax), which is near-uniform routing
    for a router whose logits differ by much less than 1.
    """

    method = "temperature"
    trainable = False
    earlier_options: ClassVar[Mapping[str, Any]] = {"unit": "logits"}

    def __init__(self, shape: RouterShape, *, temperature: float = 0.3, unit: str = "spread", **common: Any) -> None:
        super().__init__(shape, **common)
        if not temperature >= 0:
            raise ValueError(f"temperature must be 0 or more, not {temperature}.")
        self.temperature = float(temperature)
        self.unit = check_unit(unit)

    def posterior(self, hidden: Tensor, base_logits: Tensor) -> GumbelTopK:
        temperature = self.noise_scale * self.temperature * (self.logit_scale if self.unit == "spread" else 1.0)
        return GumbelTopK(base_logits, gate_logits=base_logits, temperature=temperature.expand(base_logits.shape[0]))

    def macs(self, samples: int) -> int:
        return self.shape.n_experts

    def options(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "unit": self.unit}


def check_unit(unit: str) -> str:
    """Return the unit of a temperature, ``spread`` or ``logits``; anything else is a ``ValueError``."""
    if unit not in ("spread", "logits"):
        raise ValueError(f"unit must be 'spread' or 'logits', not {unit!r}.")
    return unit
