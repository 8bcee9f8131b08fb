"""Nemotron-H: DeepSeek-V3's rule; each block is either Mamba-2, attention, dense or sparse."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import CorrectedSigmoid


class NemotronH(CorrectedSigmoid):
    """The router sits at ``mixer.gate`` of the blocks of type ``moe``."""

    classes = ("NemotronHForCausalLM",)
    packs = False
    block_name = "mixer"

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import NemotronHConfig

        values = tiny_values(
            layers_block_type=["linear_attention", "moe", "full_attention", "moe"],
            head_dim=8,
            n_routed_experts=8,
            moe_intermediate_size=16,
            moe_shared_expert_intermediate_size=16,
            ssm_state_size=8,
            mamba_num_heads=4,
            mamba_head_dim=16,
            n_groups=2,
            chunk_size=8,
        )
        return NemotronHConfig(**{**values, **overrides})
