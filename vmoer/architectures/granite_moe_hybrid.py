"""GraniteMoeHybrid: GraniteMoe's routing in a stack that mixes Mamba-2 and attention blocks.

Every block has a shared expert outside the MoE block; checkpoints with ``num_local_experts = 0`` are dense.
"""

from __future__ import annotations

from typing import Any

from vmoer.architectures.granite_moe import GraniteMoe, granite_values


class GraniteMoeHybrid(GraniteMoe):
    """Router as in GraniteMoe; a dense checkpoint has ``block_sparse_moe = None`` in every block."""

    classes = ("GraniteMoeHybridForCausalLM",)
    packs = False

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import GraniteMoeHybridConfig

        values = {
            **granite_values(),
            "shared_intermediate_size": 24,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "position_embedding_type": "rope",
            "mamba_n_heads": 4,
            "mamba_d_state": 8,
            "mamba_d_head": 16,
            "mamba_chunk_size": 8,
        }
        return GraniteMoeHybridConfig(**{**values, **overrides})
