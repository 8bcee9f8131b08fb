"""ERNIE-4.5-MoE: softmax over all experts plus a correction bias selects; gates are the probabilities, renormalised."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vmoer.architectures.base import Architecture, RouterSite, tiny_values
from vmoer.architectures.rules import top_k_indices


class Ernie45Moe(Architecture):
    """The router sits at ``mlp.gate`` and works in float32; its bias is ``mlp.gate.moe_statics``."""

    classes = ("Ernie4_5_MoeForCausalLM",)
    rule = "softmax over all + correction bias → top-k; gates: softmax, renormalised"
    separate_scores = True

    def selection_scores(self, site: RouterSite, logits: Tensor) -> Tensor:
        return torch.softmax(logits.float(), dim=-1) + site.router.moe_statics.e_score_correction_bias.squeeze()

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        return top_k_indices(self.selection_scores(site, logits), site.top_k)

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        weight = torch.softmax(logits.float(), dim=-1).gather(-1, index)
        return weight / weight.sum(dim=-1, keepdim=True).clamp(min=site.router.norm_min)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Ernie4_5_MoeConfig

        values = tiny_values(
            moe_num_experts=8,
            moe_k=2,
            moe_intermediate_size=16,
            moe_num_shared_experts=1,
            moe_layer_start_index=1,
            moe_layer_end_index=2,
        )
        del values["num_experts_per_tok"]
        return Ernie4_5_MoeConfig(**{**values, **overrides})
