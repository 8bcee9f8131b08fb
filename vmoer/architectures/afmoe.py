"""Trinity (AFMoE): sigmoid plus expert bias selects; gates renormalised and scaled."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vmoer.architectures.base import RouterSite, tiny_values
from vmoer.architectures.rules import BiasedSigmoid


class Afmoe(BiasedSigmoid):
    """The router sits at ``mlp.router`` and takes ``[batch, length, hidden]``; its matrix is ``mlp.router.gate``."""

    classes = ("AfmoeForCausalLM",)
    packs = False
    router_name = "router"
    weight_name = "gate.weight"
    argument_name = "expert_bias"
    bias_name = "expert_bias"
    scale_name = "route_scale"
    epsilon = 1e-20
    best_first = True

    def ask(self, site: RouterSite, hidden: Tensor) -> tuple[Tensor, ...]:
        return super().ask(site, hidden.reshape(-1, 1, hidden.shape[-1]))

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import AfmoeConfig

        values = tiny_values(
            num_experts=8,
            num_shared_experts=1,
            num_dense_layers=1,
            moe_intermediate_size=16,
            head_dim=8,
            route_scale=1.5,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
        return AfmoeConfig(**{**values, **overrides})
