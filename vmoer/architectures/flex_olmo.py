"""FlexOlmo: OLMoE's rule over experts that were trained apart."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import SoftmaxOverAll


class FlexOlmo(SoftmaxOverAll):
    """The router sits at ``mlp.gate``; every block is sparse."""

    classes = ("FlexOlmoForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import FlexOlmoConfig

        values = tiny_values(num_experts=8)
        return FlexOlmoConfig(**{**values, **overrides})
