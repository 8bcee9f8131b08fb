"""GPT-OSS: top-k of the logits, then softmax over the k; the router has a bias and its MoE block returns a pair."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import SoftmaxOverSelected


class GptOss(SoftmaxOverSelected):
    """The router sits at ``mlp.router``; its logits, and so its softmax, are in the model's dtype, not in float32."""

    classes = ("GptOssForCausalLM",)
    router_name = "router"
    rule = "top-k of the logits (with bias) → softmax over the k"
    packs = False  # the masks of this family are made without position_ids

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import GptOssConfig

        rope = {"rope_type": "default", "rope_theta": 10000.0}
        values = tiny_values(num_local_experts=8, head_dim=8, sliding_window=16, rope_parameters=rope)
        return GptOssConfig(**{**values, **overrides})
