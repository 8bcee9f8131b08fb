"""OLMoE: softmax over all experts, then top-k, not renormalised unless ``norm_topk_prob``."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import SoftmaxOverAll


class Olmoe(SoftmaxOverAll):
    """The router sits at ``mlp.gate``; ``num_experts`` experts, gates in the logits' dtype."""

    classes = ("OlmoeForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import OlmoeConfig

        return OlmoeConfig(**{**tiny_values(num_experts=8), **overrides})
