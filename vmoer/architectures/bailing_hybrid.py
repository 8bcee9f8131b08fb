"""Ling and Ring (Bailing, hybrid): DeepSeek-V3's rule; linear and latent attention blocks mixed."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import CorrectedSigmoid


class BailingHybrid(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; the attention's forget gates are no routers."""

    classes = ("BailingHybridForCausalLM",)
    packs = False

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import BailingHybridConfig

        values = tiny_values(
            num_key_value_heads=4,
            num_experts=8,
            num_experts_per_token=2,
            num_shared_experts=1,
            num_expert_group=4,
            topk_group=2,
            moe_intermediate_size=16,
            kv_lora_rank=8,
            qk_nope_head_dim=8,
            qk_rope_head_dim=4,
            v_head_dim=8,
            linear_head_dim=8,
            linear_num_heads=4,
            mlp_layer_types=["dense", "sparse", "sparse"],
            layer_types=["linear_attention", "full_attention", "linear_attention"],
        )
        return BailingHybridConfig(**{**values, **overrides})
