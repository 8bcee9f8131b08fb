"""dots.llm1: DeepSeek-V3's rule on grouped-query attention."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import CorrectedSigmoid


class Dots1(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; the first ``first_k_dense_replace`` blocks are dense."""

    classes = ("Dots1ForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Dots1Config

        values = tiny_values(n_routed_experts=8, n_shared_experts=1, moe_intermediate_size=16, first_k_dense_replace=1)
        return Dots1Config(**{**values, **overrides})
