"""GraniteMoeSWA: GraniteMoe's routing; sliding and full attention blocks mixed."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import SoftmaxOverSelected


class GraniteMoeSwa(SoftmaxOverSelected):
    """The router sits at ``block_sparse_moe.router``, as in GraniteMoe."""

    classes = ("GraniteMoeSWAForCausalLM",)
    block_name = "block_sparse_moe"
    router_name = "router"

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import GraniteMoeSWAConfig

        values = tiny_values(num_local_experts=8, layer_types=["full_attention", "sliding_attention", "full_attention"])
        return GraniteMoeSWAConfig(**{**values, **overrides})
