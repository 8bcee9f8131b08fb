"""MiniMax-M2: sigmoid plus correction bias selects, without groups; the bias belongs to the MoE block."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values
from vmoer.architectures.rules import BiasedSigmoid


class MiniMaxM2(BiasedSigmoid):
    """The router sits at ``mlp.gate``; the block hands it ``mlp.e_score_correction_bias``."""

    classes = ("MiniMaxM2ForCausalLM",)
    argument_name = "e_score_correction_bias"

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import MiniMaxM2Config

        values = tiny_values(num_local_experts=8, head_dim=8)
        return MiniMaxM2Config(**{**values, **overrides})
