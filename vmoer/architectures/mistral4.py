"""Mistral-4: softmax over all experts, best groups, top-k; gates renormalised and scaled.

DeepSeek-V3's groups on DeepSeek-V2's softmax: a group scores the sum of its two best experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vmoer.architectures.base import Architecture, RouterSite
from vmoer.architectures.rules import outside_best_groups
from vmoer.architectures.tiny import latent_attention_values


class Mistral4(Architecture):
    """The router sits at ``mlp.gate``; its softmax is in the model's dtype."""

    classes = ("Mistral4ForCausalLM",)
    rule = "softmax over all → best groups → top-k; gates renormalised, scaled"

    def selection_scores(self, site: RouterSite, logits: Tensor) -> Tensor:
        return logits.masked_fill(self._outside(site, torch.softmax(logits, dim=-1)), float("-inf"))

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        probability = torch.softmax(logits, dim=-1)
        probability = probability.masked_fill(self._outside(site, probability), 0.0)
        return probability.topk(site.top_k, dim=-1, sorted=False).indices

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        weight = torch.softmax(logits, dim=-1).gather(1, index)
        if site.router.norm_topk_prob:
            weight = weight / (weight.sum(dim=-1, keepdim=True) + 1e-20)
        return weight * site.router.routed_scaling_factor

    def _outside(self, site: RouterSite, probability: Tensor) -> Tensor:
        router = site.router
        groups = probability.view(-1, router.num_group, site.n_experts // router.num_group).topk(2, dim=-1)[0].sum(-1)
        return outside_best_groups(groups, router.topk_group, site.n_experts)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Mistral4Config

        values = latent_attention_values(n_group=4, topk_group=2, routed_scaling_factor=2.0)
        return Mistral4Config(**{**values, **overrides})
