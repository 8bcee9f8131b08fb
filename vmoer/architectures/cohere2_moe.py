"""Cohere-2-MoE: top-k of the logits, then softmax over the k chosen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vmoer.architectures.base import RouterSite, tiny_values
from vmoer.architectures.rules import SoftmaxOverSelected
from vmoer.errors import UnsupportedModelError


class Cohere2Moe(SoftmaxOverSelected):
    """The router sits at ``mlp.gate``; checkpoints whose gates are sigmoids are refused."""

    classes = ("Cohere2MoeForCausalLM",)

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        return torch.softmax(logits.gather(-1, index), dim=1, dtype=torch.float)

    def sites(self, model: nn.Module) -> list[RouterSite]:
        found = super().sites(model)
        if any(site.router.expert_selection_fn != "softmax" for site in found):
            raise UnsupportedModelError(
                "This Cohere2MoeForCausalLM weights its experts by sigmoids (expert_selection_fn); vmoer knows the "
                "family's softmax only."
            )
        return found

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Cohere2MoeConfig

        values = tiny_values(
            num_experts=8,
            head_dim=8,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
        return Cohere2MoeConfig(**{**values, **overrides})
