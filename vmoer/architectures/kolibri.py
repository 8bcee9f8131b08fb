"""Kolibri: the logits plus a correction bias select; gates are the sigmoids of the chosen logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vmoer.architectures.base import RouterSite, tiny_values
from vmoer.architectures.rules import BiasedSigmoid


class Kolibri(BiasedSigmoid):
    """The router sits at ``mlp.gate`` and works in float32; every block is sparse."""

    classes = ("Kolibri1ForCausalLM",)
    rule = "logits + correction bias → top-k; gates: sigmoid (renormalised only if norm_topk_prob)"
    best_first = True

    def selection_scores(self, site: RouterSite, logits: Tensor) -> Tensor:
        return logits + site.router.e_score_correction_bias

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        weight = logits.gather(1, index).sigmoid()  # of the chosen alone: a kernel's last bit depends on the shape
        return weight / weight.sum(dim=-1, keepdim=True) if site.router.norm_topk_prob else weight

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Kolibri1Config

        values = tiny_values(
            num_local_experts=8,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
            head_dim=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
        return Kolibri1Config(**{**values, **overrides})
