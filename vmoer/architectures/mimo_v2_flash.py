"""MiMo-V2-Flash: DeepSeek-V3's rule with one group; sliding and full attention blocks mixed."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import CorrectedSigmoid


class MiMoV2Flash(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; ``mlp_layer_types`` makes the first block dense."""

    classes = ("MiMoV2FlashForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import MiMoV2FlashConfig

        values = tiny_values(
            n_routed_experts=8,
            moe_intermediate_size=16,
            head_dim=8,
            v_head_dim=8,
            layer_types=["full_attention", "sliding_attention", "sliding_attention"],
            mlp_layer_types=["dense", "sparse", "sparse"],
        )
        return MiMoV2FlashConfig(**{**values, **overrides})
