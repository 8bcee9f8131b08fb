"""Jamba: softmax over all experts, top-k, never renormalised; sparse and dense, Mamba and attention blocks alternate.

Its Mamba blocks start from an empty state whenever more than one token is fed, cache or not (transformers 5.23): text
that continues a cache has to be fed token by token, as ``generate()`` does.
"""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import RouterSite, tiny_values
from vmoer.architectures.rules import SoftmaxOverAll


class Jamba(SoftmaxOverAll):
    """The router sits at ``feed_forward.router`` of every ``expert_layer_period``-th block."""

    classes = ("JambaForCausalLM",)
    block_name = "feed_forward"
    router_name = "router"
    rule = "softmax over all → top-k, not renormalised"
    packs = False
    continues_cache = False

    def renormalised(self, site: RouterSite) -> bool:
        return False

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import JambaConfig

        values = tiny_values(
            num_experts=8,
            expert_layer_period=2,
            expert_layer_offset=0,
            attn_layer_period=2,
            attn_layer_offset=1,
            mamba_d_state=4,
            mamba_dt_rank=4,
        )
        return JambaConfig(**{**values, **overrides})
