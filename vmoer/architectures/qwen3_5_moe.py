"""Qwen3.5-MoE, text model: softmax over all, top-k, always renormalised; linear and full attention blocks mixed."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.rules import AlwaysRenormalised
from vmoer.architectures.tiny import linear_attention_values


class Qwen35Moe(AlwaysRenormalised):
    """The router sits at ``mlp.gate``; every block is sparse and has a shared expert with a gate of its own."""

    classes = ("Qwen3_5MoeForCausalLM",)
    packs = False

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig

        return Qwen3_5MoeTextConfig(**{**linear_attention_values(), **overrides})
