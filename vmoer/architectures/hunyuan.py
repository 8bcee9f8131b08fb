"""Hunyuan-MoE: softmax over all experts in float32, top-k, always renormalised."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import AlwaysRenormalised


class HunYuan(AlwaysRenormalised):
    """The router sits at ``mlp.gate``; its matrix is ``mlp.gate.wg``, float32 whatever the model's dtype."""

    classes = ("HunYuanMoEV1ForCausalLM",)
    weight_name = "wg.weight"

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import HunYuanMoEV1Config

        values = tiny_values(num_experts=8, moe_topk=2, head_dim=8)
        return HunYuanMoEV1Config(**{**values, **overrides})
