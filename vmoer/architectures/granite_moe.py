"""GraniteMoe and GraniteMoeShared: top-k of the logits, then softmax over the k chosen.

The shared expert of GraniteMoeShared sits beside the MoE block and is added unweighted; routing never sees it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vmoer.architectures.base import Architecture, RouterSite, tiny_values
from vmoer.architectures.rules import softmax_over_selected, top_k_indices


class GraniteMoe(Architecture):
    """The router sits at ``block_sparse_moe.router``; its tuple is (logits, weights, indices)."""

    classes: tuple[str, ...] = ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM")
    block_name = "block_sparse_moe"
    router_name = "router"
    rule = "top-k of the logits → softmax over the k"

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        return top_k_indices(logits, site.top_k)

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        return softmax_over_selected(logits, index)

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
