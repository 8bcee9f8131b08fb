"""Solar-Open: DeepSeek-V3's rule with one group on grouped-query attention."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import CorrectedSigmoid


class SolarOpen(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; every block is sparse."""

    classes = ("SolarOpenForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import SolarOpenConfig

        values = tiny_values(n_routed_experts=8, n_shared_experts=1, moe_intermediate_size=16, head_dim=8)
        return SolarOpenConfig(**{**values, **overrides})
