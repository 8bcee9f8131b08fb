"""Llama-4, the text model: top-k of the logits, one sigmoid per chosen expert, outputs in reverse order.

The router returns ``(scores [tokens, experts], logits)``: scores are dense, zero where an expert was not chosen. They
multiply the experts' *inputs*, and every expert runs on every token (the others on zeros).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vmoer.architectures.base import RouterSite, tiny_values
from vmoer.architectures.rules import SigmoidArchitecture, top_k_indices


class Llama4(SigmoidArchitecture):
    """The router sits at ``feed_forward.router``, a subclass of ``nn.Linear``; blocks may be dense in between."""

    classes = ("Llama4ForCausalLM",)
    block_name = "feed_forward"
    router_name = "router"
    rule = "top-k of the logits → sigmoid of each"

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        return top_k_indices(logits, site.top_k)

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        # over the dense row, as the native router does: a kernel's last bit depends on the shape it works on
        dense = torch.full_like(logits, float("-inf")).scatter(-1, index, logits.gather(-1, index))
        return torch.sigmoid(dense.float()).gather(-1, index)

    def unpack(self, site: RouterSite, output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        scores, logits = output
        index = self.select(site, logits)
        return logits, scores.gather(-1, index), index

    def pack(self, site: RouterSite, logits: Tensor, weight: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        return torch.zeros_like(logits, dtype=weight.dtype).scatter(-1, index, weight), logits

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Llama4TextConfig

        values = tiny_values(
            num_local_experts=8,
            intermediate_size_mlp=24,
            head_dim=8,
            moe_layers=[0, 2],
            attention_chunk_size=64,
        )
        return Llama4TextConfig(**{**values, **overrides})
