"""GLM-4 MoE: DeepSeek-V3's rule (released checkpoints have one group) on grouped-query attention."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import CorrectedSigmoid


class Glm4Moe(CorrectedSigmoid):
    """The router sits at ``mlp.gate`` and works in float32; the first ``first_k_dense_replace`` blocks are dense."""

    classes = ("Glm4MoeForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Glm4MoeConfig

        values = tiny_values(
            n_routed_experts=8, n_shared_experts=1, moe_intermediate_size=16, first_k_dense_replace=1, head_dim=8
        )
        return Glm4MoeConfig(**{**values, **overrides})
