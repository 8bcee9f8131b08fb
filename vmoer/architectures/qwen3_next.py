"""Qwen3-Next: Qwen3-MoE's rule; linear and full attention blocks mixed, up to 512 experts."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.rules import SoftmaxOverAll
from vmoer.architectures.tiny import linear_attention_values


class Qwen3Next(SoftmaxOverAll):
    """The router sits at ``mlp.gate``; the shared expert has a gate of its own."""

    classes = ("Qwen3NextForCausalLM",)
    packs = False

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Qwen3NextConfig

        values = linear_attention_values()
        return Qwen3NextConfig(**{**values, **overrides})
