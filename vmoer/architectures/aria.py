"""Aria, the text model: Granite's rule in the model's dtype."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import SoftmaxOverSelected


class Aria(SoftmaxOverSelected):
    """The router sits at ``mlp.router``; shared experts are added unweighted."""

    classes = ("AriaForConditionalGeneration", "AriaTextForCausalLM")
    router_name = "router"

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import AriaConfig, AriaTextConfig

        values = tiny_values(moe_num_experts=8, moe_topk=2, head_dim=8)
        text = {**values, **overrides}
        if class_name == "AriaTextForCausalLM":
            return AriaTextConfig(**text)
        vision = {
            "model_type": "idefics3_vision",
            "hidden_size": 32,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
        }
        return AriaConfig(text_config={"model_type": "aria_text", **text}, vision_config=vision, image_token_index=96)
