"""Phi-3.5-MoE: sparsemixer, two experts picked one after the other, each weighted among the logits close to it.

In evaluation mode the first expert is the largest logit, the second the largest of the rest. Each weight is a softmax
over the logits within a *relative* distance (2 × ``router_jitter_noise`` × the logit's own size) of its expert, so the
weights depend on the logits' absolute values; a softmax router's do not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vmoer.architectures.base import Architecture, RouterSite, tiny_values


class Phimoe(Architecture):
    """The router sits at ``mlp.router``, a subclass of ``nn.Linear``; in training mode it draws from the global RNG."""

    classes = ("PhimoeForCausalLM",)
    router_name = "router"
    rule = "sparsemixer: top-1, then top-1 of the rest; each a softmax over the logits near it"
    bayesian_refusal = (
        "PhimoeForCausalLM weights its experts by sparsemixer, which depends on the absolute size of the logits: an "
        "average of routing probabilities has none, so Bayesian routers are refused (recording works)."
    )

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        first = logits.max(dim=-1, keepdim=True).indices
        return torch.cat([first, _without(logits, first).max(dim=-1, keepdim=True).indices], dim=-1)

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        first, second = index[:, :1], index[:, 1:]
        rest = _without(logits, first)
        return torch.cat([self._weight(site, logits, logits, first), self._weight(site, logits, rest, second)], dim=-1)

    def _weight(self, site: RouterSite, logits: Tensor, candidates: Tensor, chosen: Tensor) -> Tensor:
        top = candidates.gather(-1, chosen)
        distance = (top - logits) / logits.abs().clamp(min=top)
        far = distance > 2 * site.router.router_jitter_noise
        return torch.softmax(candidates.masked_fill(far, float("-inf")), dim=-1).gather(-1, chosen)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import PhimoeConfig

        return PhimoeConfig(**{**tiny_values(num_local_experts=8, router_jitter_noise=0.4), **overrides})


def _without(logits: Tensor, index: Tensor) -> Tensor:
    return logits.scatter(-1, index, float("-inf"))
