"""K-EXAONE: DeepSeek-V3's rule with one group; sliding and full attention blocks mixed."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import CorrectedSigmoid


class ExaoneMoe(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; ``mlp_layer_types`` makes the first block dense."""

    classes = ("ExaoneMoeForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import ExaoneMoeConfig

        values = tiny_values(
            num_experts=8,
            num_shared_experts=1,
            moe_intermediate_size=16,
            head_dim=8,
            layer_types=["sliding_attention", "full_attention", "full_attention"],
            mlp_layer_types=["dense", "sparse", "sparse"],
        )
        return ExaoneMoeConfig(**{**values, **overrides})
