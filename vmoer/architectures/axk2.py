"""A.X-K2: DeepSeek-V3's rule on indexed latent attention; small checkpoints have no expert groups."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vmoer.architectures.base import RouterSite
from vmoer.architectures.rules import CorrectedSigmoid
from vmoer.architectures.tiny import indexed_attention_values


class AxK2(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; an expert outside the best groups scores 0."""

    classes = ("AXK2ForCausalLM",)

    def selection_scores(self, site: RouterSite, logits: Tensor) -> Tensor:
        if site.router.num_group is None:
            return logits.sigmoid() + site.router.e_score_correction_bias
        scores = super().selection_scores(site, logits)
        return scores.masked_fill(scores == float("-inf"), 0.0)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import AXK2Config

        values = indexed_attention_values(n_group=4, topk_group=2, gated_norm_rank=4)
        return AXK2Config(**{**values, **overrides})
