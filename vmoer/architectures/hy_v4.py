"""Hunyuan-V4: DeepSeek-V3's rule on indexed latent attention."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.rules import CorrectedSigmoid
from vmoer.architectures.tiny import indexed_attention_values


class HyV4(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; ``mlp_layer_types`` makes the first block dense."""

    classes = ("HYV4ForCausalLM",)
    divisible = False

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import HYV4Config

        values = {**indexed_attention_values(), "indexer_types": ["full"] * 3, "head_dim": 4}
        return HYV4Config(**{**values, **overrides})
