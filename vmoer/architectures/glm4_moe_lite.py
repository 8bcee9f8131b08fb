"""GLM-4.7-Flash: DeepSeek-V3's rule on multi-head latent attention."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.rules import CorrectedSigmoid
from vmoer.architectures.tiny import latent_attention_values


class Glm4MoeLite(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; ``mlp_layer_types`` makes the first block dense."""

    classes = ("Glm4MoeLiteForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Glm4MoeLiteConfig

        values = {**latent_attention_values(), "mlp_layer_types": ["dense", "sparse", "sparse"]}
        return Glm4MoeLiteConfig(**{**values, **overrides})
