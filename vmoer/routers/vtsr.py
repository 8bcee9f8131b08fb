"""VTSR: a variational temperature per token (thesis §VTSR), sampled in training exactly as at inference.

Experts are the top k of l/T + g, g standard Gumbel: drawn without replacement from softmax(l/T). Gates come from l/T.
Selection does not differentiate, so T learns through two paths: the gates, exactly; and the selection, by a
straight-through estimator. Each chosen gate is multiplied by 1 (forward), whose gradient is that of a soft indicator
σ(z_i − threshold) of being among the top k of z = l/T + g. An expert that noise let in and that does harm thereby
lowers T; one that helps raises it. The estimator is biased (experts that were not chosen are never computed, so they
have no gradient) and has none of the variance of a score-function estimator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vmoer.routers.base import BayesianRouter, RouterShape, linear, positive, products
from vmoer.routers.mfvr import bounded, check_trunk
from vmoer.routers.temperature import GumbelTopK, check_unit


@dataclass
class VariationalTemperature(GumbelTopK):
    """Adds to the draws of ``temperature`` the penalty ``log_ratio`` = log(T/T₀) ``[tokens]`` and a gradient for T."""

    log_ratio: Tensor
    prior_std: float
    top_k: int

    token_axes = (("log_ratio", 0),)

    def kl(self) -> Tensor:
        """(log T/T₀)² / 2σ²: the KL divergence between log-normals of medians T and T₀ and the same width σ."""
        return self.log_ratio.square() / (2.0 * self.prior_std**2)

    def inclusion(self, scores: Tensor) -> Tensor | None:
        assert self.temperature is not None
        if self.top_k >= scores.shape[-1]:
            return None
        standard = scores / self.temperature[:, None].clamp_min(1e-6)
        edge = standard.topk(self.top_k + 1, dim=-1).values[:, -2:].mean(-1, keepdim=True)
        return torch.sigmoid(standard - edge)


class VariationalTemperatureRouter(BayesianRouter):
    """log(T/T₀) = bounded MLP of the router's input, H → H/4 (ReLU) → 1 with biases, nearly 0 at the start.

    The gates are those of l · T₀/T. ``noise_scale`` c multiplies the selection temperature and the logarithm of the
    ratio: c = 0 is the native router. T₀ is ``temperature`` in units of the router's own logit spread, or in logits
    with ``unit="logits"``.
    """

    method = "vtsr"
    earlier_options: ClassVar[Mapping[str, Any]] = {"unit": "logits"}

    def __init__(
        self,
        shape: RouterShape,
        *,
        generator: torch.Generator,
        temperature: float = 1.0,
        prior_std: float = 0.5,
        trunk_width: int | None = None,
        unit: str = "spread",
        **common: Any,
    ) -> None:
        super().__init__(shape, generator=generator, **common)
        self.temperature = positive("temperature", temperature)
        self.prior_std = positive("prior_std", prior_std)
        self.unit = check_unit(unit)
        self.trunk_width = check_trunk("shared", trunk_width, max(shape.hidden_size // 4, 1))
        self.trunk = linear(self.trunk_width, shape.hidden_size, generator, bias=True)
        self.ratio_head = linear(1, self.trunk_width, generator, std=1e-3, bias=True)

    def posterior(self, hidden: Tensor, base_logits: Tensor) -> VariationalTemperature:
        log_ratio = bounded(self.ratio_head(torch.relu(self.trunk(hidden)))[:, 0])
        ratio = (self.noise_scale * log_ratio).exp()
        unit = self.logit_scale if self.unit == "spread" else 1.0
        return VariationalTemperature(
            base_logits,
            log_ratio,
            self.prior_std,
            self.shape.top_k,
            gate_logits=base_logits / ratio[:, None],
            temperature=self.noise_scale * self.temperature * unit * ratio,
        )

    def macs(self, samples: int) -> int:
        return products(self) + self.shape.n_experts

    def options(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "prior_std": self.prior_std,
            "trunk_width": self.trunk_width,
            "unit": self.unit,
        }
