"""Gemma-4, sparse models: softmax over all experts, top-k, renormalised, times a learned factor per expert.

A dense MLP runs beside the experts in every block. The router normalises its input itself and reports probabilities,
not logits: its logits are computed once more from its input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vmoer.architectures.base import RouterSite, tiny_values
from vmoer.architectures.rules import AlwaysRenormalised, normalised


class Gemma4(AlwaysRenormalised):
    """The router sits at ``router`` of the decoder block, beside ``experts``; dense checkpoints have none."""

    classes = ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration")
    rule = "softmax over all → top-k → renormalised, times a factor per expert"
    block_name = ""
    router_name = "router"
    weight_name = "proj.weight"
    separate_scores = True

    def sizes(self, router: Any) -> tuple[int, int]:
        return router.config.num_experts, router.config.top_k_experts

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        weight = torch.softmax(logits, dim=-1, dtype=torch.float32).gather(-1, index)
        return normalised(weight) * site.router.per_expert_scale[index]

    def read(self, site: RouterSite, hidden: Tensor, output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        router = site.router
        _, weight, index = output
        return router.proj(router.norm(hidden) * router.scale * router.scalar_root_size), weight, index

    def pack(self, site: RouterSite, logits: Tensor, weight: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        return torch.softmax(logits, dim=-1, dtype=torch.float32), weight, index

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Gemma4Config, Gemma4TextConfig

        values = tiny_values(
            enable_moe_block=True,
            num_experts=8,
            top_k_experts=2,
            moe_intermediate_size=16,
            head_dim=8,
            sliding_window=16,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            vocab_size_per_layer_input=97,
            hidden_size_per_layer_input=0,
        )
        del values["num_experts_per_tok"]
        text = {**values, **overrides}
        if class_name == "Gemma4ForCausalLM":
            return Gemma4TextConfig(**text)
        vision = {
            "hidden_size": 32,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
        }
        return Gemma4Config(
            text_config=text,
            vision_config=vision,
            audio_config=None,
            image_token_id=96,
            boi_token_id=95,
            eoi_token_id=94,
        )
