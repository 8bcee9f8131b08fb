"""OLMoE: softmax over all experts, then top-k, not renormalised unless ``norm_topk_prob``."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import RouterSite, tiny_values
from vmoer.architectures.rules import SoftmaxOverAll


class Olmoe(SoftmaxOverAll):
    """The router sits at ``mlp.gate``; ``num_experts`` experts, gates in the logits' dtype."""

    classes = ("OlmoeForCausalLM",)
    rule = "softmax over all → top-k (renormalised only if norm_topk_prob)"

    def renormalised(self, site: RouterSite) -> bool:
        return bool(site.router.norm_topk_prob)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import OlmoeConfig

        return OlmoeConfig(**{**tiny_values(num_experts=8), **overrides})
