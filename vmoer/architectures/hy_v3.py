"""Hunyuan-V3: sigmoid plus correction bias selects; gates renormalised and scaled."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import BiasedSigmoid


class HyV3(BiasedSigmoid):
    """The router sits at ``mlp.gate``; the block hands it ``mlp.e_score_correction_bias``."""

    classes = ("HYV3ForCausalLM",)
    argument_name = "e_score_correction_bias"
    scale_name = "router_scaling_factor"
    epsilon = 1e-20

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import HYV3Config

        values = tiny_values(
            num_experts=8,
            num_shared_experts=1,
            moe_intermediate_size=16,
            head_dim=8,
            mlp_layer_types=["dense", "sparse", "sparse"],
        )
        return HYV3Config(**{**values, **overrides})
