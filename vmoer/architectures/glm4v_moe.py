"""GLM-4.5V: GLM-4-MoE's rule in the text part; what an image becomes is routed like text, one token per patch."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import CorrectedSigmoid


class Glm4vMoe(CorrectedSigmoid):
    """The router sits at ``mlp.gate`` below ``model.language_model``; the first blocks are dense."""

    classes = ("Glm4vMoeForConditionalGeneration",)
    packs = False

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Glm4vMoeConfig

        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}
        text = tiny_values(
            n_routed_experts=8,
            n_shared_experts=1,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
            head_dim=8,
            rope_parameters=rope,
        )
        vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 16, "num_heads": 4, "out_hidden_size": 32}
        return Glm4vMoeConfig(text_config={**text, **overrides}, vision_config=vision, image_token_id=96)
