"""Beam: DeepSeek-V3's rule, chosen experts best first; the scaling factor multiplies their sum, not the gates."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vmoer.architectures.base import RouterSite, tiny_values
from vmoer.architectures.rules import CorrectedSigmoid


class Beam(CorrectedSigmoid):
    """The router sits at ``mlp.gate`` and works in float32; ``mlp_layer_types`` makes the first blocks dense."""

    classes = ("BeamForCausalLM",)
    rule = "sigmoid + correction bias → best groups → top-k; gates: sigmoid, renormalised"
    best_first = True

    def scale(self, site: RouterSite, weight: Tensor) -> Tensor:
        return weight

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import BeamConfig

        values = tiny_values(
            num_experts=8,
            moe_intermediate_size=16,
            head_dim=8,
            n_group=4,
            topk_group=2,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            mlp_layer_types=["dense", "sparse", "sparse"],
        )
        return BeamConfig(**{**values, **overrides})
