"""LFM2-MoE: sigmoid plus expert bias selects; short convolution and attention blocks mixed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import BiasedSigmoid


class Lfm2Moe(BiasedSigmoid):
    """The router sits at ``feed_forward.gate``; its sigmoids are in the logits' dtype."""

    classes = ("Lfm2MoeForCausalLM",)
    packs = False
    block_name = "feed_forward"
    argument_name = "expert_bias"
    bias_name = "expert_bias"
    scale_name = "routed_scaling_factor"
    epsilon = 1e-06
    best_first = True

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Lfm2MoeConfig

        values = tiny_values(
            num_experts=8,
            num_dense_layers=1,
            moe_intermediate_size=16,
            layer_types=["conv", "full_attention", "conv"],
            routed_scaling_factor=1.5,
        )
        return Lfm2MoeConfig(**{**values, **overrides})
