"""Mixtral: softmax over all experts, top-k, always renormalised; gates stay float32 whatever the model's dtype."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import AlwaysRenormalised


class Mixtral(AlwaysRenormalised):
    """The router sits at ``mlp.gate`` (older releases and papers say ``block_sparse_moe``)."""

    classes = ("MixtralForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import MixtralConfig

        return MixtralConfig(**{**tiny_values(num_local_experts=8), **overrides})
