"""Qwen3-VL-MoE: Mixtral's rule in the text part; what an image becomes is routed like text, one token per patch."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import AlwaysRenormalised


class Qwen3VlMoe(AlwaysRenormalised):
    """The router sits at ``mlp.gate`` below ``model.language_model``; ``mlp_only_layers`` are dense."""

    classes = ("Qwen3VLMoeForConditionalGeneration",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Qwen3VLMoeConfig

        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
        text = tiny_values(
            num_local_experts=8, moe_intermediate_size=16, head_dim=8, mlp_only_layers=[1], rope_parameters=rope
        )
        vision = {
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 16,
            "num_heads": 4,
            "out_hidden_size": 32,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 16,
        }
        return Qwen3VLMoeConfig(text_config={**text, **overrides}, vision_config=vision, image_token_id=96)
