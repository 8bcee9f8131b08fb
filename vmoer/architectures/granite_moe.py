"""GraniteMoe and GraniteMoeShared: top-k of the logits, then softmax over the k chosen.

The shared expert of GraniteMoeShared sits beside the MoE block and is added unweighted; routing never sees it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vmoer.architectures.base import (
    Architecture,
    RouterSite,
    softmax_over_selected,
    top_k_indices,
    unwrap,
)


class GraniteMoe(Architecture):
    """The router sits at ``block_sparse_moe.router``; its tuple is (logits, weights, indices)."""

    classes = ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM")

    def backbone(self, model: nn.Module) -> nn.Module:
        return _module(unwrap(model), "model")

    def decoder_layers(self, model: nn.Module) -> nn.ModuleList:
        layers = self.backbone(model).layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def sites(self, model: nn.Module) -> list[RouterSite]:
        config: Any = unwrap(model).config
        found = []
        for layer, block in enumerate(self.decoder_layers(model)):
            moe = getattr(block, "block_sparse_moe", None)
            if moe is None:
                continue
            router = _module(moe, "router")
            found.append(
                RouterSite(
                    layer=layer,
                    path=f"model.layers.{layer}.block_sparse_moe.router",
                    router=router,
                    block=moe,
                    n_experts=config.num_local_experts,
                    top_k=config.num_experts_per_tok,
                    hidden_size=config.hidden_size,
                )
            )
        return found

    def select(self, site: RouterSite, scores: Tensor) -> Tensor:
        return top_k_indices(scores, site.top_k)

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        return softmax_over_selected(logits, index)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import GraniteMoeConfig, GraniteMoeSharedConfig

        values: dict[str, Any] = {
            "vocab_size": 97,
            "hidden_size": 32,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 128,
            "initializer_range": 0.2,
            "embedding_multiplier": 1.0,
            "attention_multiplier": 8**-0.5,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
        if class_name == "GraniteMoeSharedForCausalLM":
            return GraniteMoeSharedConfig(**{**values, "shared_intermediate_size": 24, **overrides})
        return GraniteMoeConfig(**{**values, **overrides})


def _module(parent: nn.Module, name: str) -> nn.Module:
    child = getattr(parent, name)
    assert isinstance(child, nn.Module)
    return child
