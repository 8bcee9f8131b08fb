"""GraniteMoe and GraniteMoeShared: top-k of the logits, then softmax over the k chosen.

The shared expert of GraniteMoeShared sits beside the MoE block and is added unweighted; routing never sees it.
"""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import SoftmaxOverSelected


class GraniteMoe(SoftmaxOverSelected):
    """The router sits at ``block_sparse_moe.router``; its tuple is (logits, weights, indices)."""

    classes: tuple[str, ...] = ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM")
    block_name = "block_sparse_moe"
    router_name = "router"

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import GraniteMoeConfig, GraniteMoeSharedConfig

        values = granite_values()
        if class_name == "GraniteMoeSharedForCausalLM":
            return GraniteMoeSharedConfig(**{**values, "shared_intermediate_size": 24, **overrides})
        return GraniteMoeConfig(**{**values, **overrides})


def granite_values() -> dict[str, Any]:
    """What the tiny models of all Granite families share."""
    return tiny_values(
        num_local_experts=8,
        embedding_multiplier=1.0,
        attention_multiplier=8**-0.5,
        residual_multiplier=1.0,
        logits_scaling=1.0,
        tie_word_embeddings=True,
    )
