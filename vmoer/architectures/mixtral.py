"""Mixtral: softmax over all experts, top-k, always renormalised; gates stay float32 whatever the model's dtype."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import RouterSite, tiny_values
from vmoer.architectures.rules import SoftmaxOverAll


class Mixtral(SoftmaxOverAll):
    """The router sits at ``mlp.gate`` (older releases and papers say ``block_sparse_moe``)."""

    classes = ("MixtralForCausalLM",)
    rule = "softmax over all → top-k → renormalised"

    def renormalised(self, site: RouterSite) -> bool:
        return True

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import MixtralConfig

        return MixtralConfig(**{**tiny_values(num_local_experts=8), **overrides})
