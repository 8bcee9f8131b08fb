"""Mellum: Qwen3-MoE's rule; sliding and full attention blocks mixed."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import SoftmaxOverAll


class Mellum(SoftmaxOverAll):
    """The router sits at ``mlp.gate``; ``mlp_layer_types`` makes some blocks dense."""

    classes = ("MellumForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import MellumConfig

        values = tiny_values(
            num_local_experts=8,
            moe_intermediate_size=16,
            head_dim=8,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
            mlp_layer_types=["sparse", "dense", "sparse"],
        )
        return MellumConfig(**{**values, **overrides})
