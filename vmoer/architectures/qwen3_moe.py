"""Qwen3-MoE: OLMoE's rule without a shared expert; released checkpoints set ``norm_topk_prob``."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import SoftmaxOverAll


class Qwen3Moe(SoftmaxOverAll):
    """The router sits at ``mlp.gate``; ``mlp_only_layers`` and ``decoder_sparse_step`` make some blocks dense."""

    classes = ("Qwen3MoeForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Qwen3MoeConfig

        values = tiny_values(
            num_experts=8, moe_intermediate_size=16, mlp_only_layers=[1], norm_topk_prob=True, head_dim=8
        )
        return Qwen3MoeConfig(**{**values, **overrides})
