"""A.X-K1: DeepSeek-V3's rule on multi-head latent attention."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.rules import CorrectedSigmoid
from vmoer.architectures.tiny import latent_attention_values


class AxK1(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; ``mlp_layer_types`` makes the first block dense."""

    classes = ("AXK1ForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import AXK1Config

        values = {
            **latent_attention_values(),
            "n_group": 4,
            "topk_group": 2,
            "mlp_layer_types": ["dense", "sparse", "sparse"],
        }
        return AXK1Config(**{**values, **overrides})
