"""Qwen2-MoE (Qwen1.5-MoE): OLMoE's rule beside a shared expert that has a sigmoid gate of its own.

``mlp_only_layers`` and ``decoder_sparse_step`` make some blocks dense, so a router's place in
``output_router_logits`` is not its layer.
"""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import SoftmaxOverAll


class Qwen2Moe(SoftmaxOverAll):
    """The router sits at ``mlp.gate``, not to be taken for ``mlp.shared_expert_gate``; dense blocks have no gate."""

    classes = ("Qwen2MoeForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Qwen2MoeConfig

        values = tiny_values(
            num_experts=8,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=24,
            mlp_only_layers=[1],
        )
        return Qwen2MoeConfig(**{**values, **overrides})
