"""Qwen3-Omni-MoE, the thinker: Qwen3-MoE's rule in the text part; sound and images are routed like text."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import SoftmaxOverAll


class Qwen3OmniMoe(SoftmaxOverAll):
    """The router sits at ``mlp.gate`` below ``model.language_model``; the talker is another model."""

    classes = ("Qwen3OmniMoeThinkerForConditionalGeneration",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Qwen3OmniMoeThinkerConfig

        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
        text = tiny_values(
            num_experts=8,
            moe_intermediate_size=16,
            head_dim=8,
            mlp_only_layers=[1],
            norm_topk_prob=True,
            rope_parameters=rope,
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
        audio = {
            "d_model": 32,
            "encoder_layers": 1,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 16,
            "output_dim": 32,
            "downsample_hidden_size": 8,
            "num_mel_bins": 16,
        }
        return Qwen3OmniMoeThinkerConfig(
            text_config={**text, **overrides},
            vision_config=vision,
            audio_config=audio,
            image_token_id=96,
            vision_start_token_id=95,
        )
