"""Flint: the sigmoids select and weight, without a bias."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import BiasedSigmoid


class Flint(BiasedSigmoid):
    """The router sits at ``mlp.gate`` and works in float32; ``mlp_only_layers`` are dense."""

    classes = ("FlintForCausalLM",)
    best_first = True

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import FlintConfig

        values = tiny_values(
            num_experts=8,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
            head_dim=8,
            mlp_only_layers=[1],
            layer_types=["full_attention", "sliding_attention", "full_attention"],
        )
        return FlintConfig(**{**values, **overrides})
