"""Laguna: sigmoid plus correction bias selects; logits may be soft-capped before."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import BiasedSigmoid


class Laguna(BiasedSigmoid):
    """The router sits at ``mlp.gate``; ``mlp_layer_types`` makes the first block dense."""

    classes = ("LagunaForCausalLM",)
    best_first = True

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import LagunaConfig

        values = tiny_values(
            num_experts=8,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
            head_dim=8,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
            num_attention_heads_per_layer=[4, 4, 4],
            mlp_layer_types=["dense", "sparse", "sparse"],
            moe_router_logit_softcapping=5.0,
        )
        return LagunaConfig(**{**values, **overrides})
