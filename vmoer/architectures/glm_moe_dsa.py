"""GLM-5: DeepSeek-V3's rule on DeepSeek-V3.2's indexed attention."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.rules import CorrectedSigmoid
from vmoer.architectures.tiny import indexed_attention_values


class GlmMoeDsa(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; ``mlp_layer_types`` makes the first blocks dense."""

    classes = ("GlmMoeDsaForCausalLM",)
    divisible = False

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import GlmMoeDsaConfig

        values = {**indexed_attention_values(), "indexer_types": ["full"] * 3}
        return GlmMoeDsaConfig(**{**values, **overrides})
