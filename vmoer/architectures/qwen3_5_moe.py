"""Qwen3.5-MoE, text model: softmax over all, top-k, always renormalised; linear and full attention blocks mixed."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import AlwaysRenormalised


class Qwen35Moe(AlwaysRenormalised):
    """The router sits at ``mlp.gate``; every block is sparse and has a shared expert with a gate of its own."""

    classes = ("Qwen3_5MoeForCausalLM",)
    packs = False

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig

        values = tiny_values(
            num_experts=8,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=24,
            head_dim=8,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
        )
        return Qwen3_5MoeTextConfig(**{**values, **overrides})
