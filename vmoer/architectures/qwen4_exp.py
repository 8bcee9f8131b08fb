"""Qwen4-Exp, the text model: Qwen3-MoE's rule; linear and indexed attention, and several residual streams."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.rules import SoftmaxOverAll
from vmoer.architectures.tiny import linear_attention_values


class Qwen4Exp(SoftmaxOverAll):
    """The router sits at ``mlp.gate``; every block is sparse and has a shared expert with a gate of its own."""

    classes = ("Qwen4ExpForCausalLM",)
    packs = False
    divisible = False

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Qwen4ExpTextConfig

        values = {
            **linear_attention_values(),
            "layer_types": ["linear_attention", "indexed_attention", "linear_attention"],
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 64,
            "indexer_compress_ratio": 4,
            "hc_lowrank": 8,
        }
        return Qwen4ExpTextConfig(**{**values, **overrides})
