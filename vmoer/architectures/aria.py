"""Aria, the text model: Granite's rule in the model's dtype."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import SoftmaxOverSelected


class Aria(SoftmaxOverSelected):
    """The router sits at ``mlp.router``; shared experts are added unweighted."""

    classes = ("AriaTextForCausalLM",)
    router_name = "router"

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import AriaTextConfig

        values = tiny_values(moe_num_experts=8, moe_topk=2, head_dim=8)
        return AriaTextConfig(**{**values, **overrides})
