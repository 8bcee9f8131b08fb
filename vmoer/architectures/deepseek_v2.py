"""DeepSeek-V2: softmax over all experts, greedy or group-limited top-k, gates × ``routed_scaling_factor``.

The router is called with ``[batch, length, hidden]`` and flattens it itself; gates are never renormalised, whatever
``norm_topk_prob`` says; the first ``first_k_dense_replace`` blocks are dense.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vmoer.architectures.base import Architecture, RouterSite
from vmoer.architectures.rules import outside_best_groups
from vmoer.architectures.tiny import latent_attention_values


class DeepseekV2(Architecture):
    """The router sits at ``mlp.gate`` and works in float32; a group scores its best expert."""

    classes = ("DeepseekV2ForCausalLM",)
    rule = "softmax over all → best groups → top-k; gates scaled, not renormalised"

    def selection_scores(self, site: RouterSite, logits: Tensor) -> Tensor:
        return logits if self._greedy(site) else logits.masked_fill(self._outside(site, logits), float("-inf"))

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        probability = torch.softmax(logits, dim=-1, dtype=torch.float32)
        if not self._greedy(site):
            probability = probability.masked_fill(self._outside(site, logits), 0.0)
        return probability.topk(site.top_k, dim=-1, sorted=False).indices

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        probability = torch.softmax(logits, dim=-1, dtype=torch.float32)
        return probability.gather(-1, index) * site.router.routed_scaling_factor

    def _greedy(self, site: RouterSite) -> bool:
        return bool(site.router.topk_method == "greedy")

    def _outside(self, site: RouterSite, logits: Tensor) -> Tensor:
        router = site.router
        probability = torch.softmax(logits, dim=-1, dtype=torch.float32)
        groups = probability.view(-1, router.num_group, site.n_experts // router.num_group).max(dim=-1).values
        return outside_best_groups(groups, router.topk_group, site.n_experts)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import DeepseekV2Config

        values = {
            **latent_attention_values(),
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.0,
        }
        return DeepseekV2Config(**{**values, **overrides})
