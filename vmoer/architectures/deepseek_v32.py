"""DeepSeek-V3.2: DeepSeek-V3's rule; an indexer picks the tokens that attention reads."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.rules import CorrectedSigmoid
from vmoer.architectures.tiny import indexed_attention_values


class DeepseekV32(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; ``mlp_layer_types`` makes the first blocks dense."""

    classes = ("DeepseekV32ForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import DeepseekV32Config

        values = {**indexed_attention_values(), "n_group": 4, "topk_group": 2}
        return DeepseekV32Config(**{**values, **overrides})
