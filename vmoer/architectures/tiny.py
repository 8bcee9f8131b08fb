"""Configuration values that tiny models of several families share (unit tests only)."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.base import tiny_values


def latent_attention_values(**changes: Any) -> dict[str, Any]:
    """Return the values of a tiny DeepSeek model: multi-head latent attention, a dense block below the sparse ones."""
    return tiny_values(
        num_key_value_heads=4,
        n_routed_experts=8,
        n_shared_experts=1,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        **changes,
    )


def indexed_attention_values(**changes: Any) -> dict[str, Any]:
    """Return those of a model whose attention reads only the tokens that an indexer picks."""
    return latent_attention_values(
        layer_types=["indexed_attention"] * 3,
        mlp_layer_types=["dense", "sparse", "sparse"],
        index_topk=64,
        index_head_dim=8,
        index_n_heads=2,
        **changes,
    )


def linear_attention_values(**changes: Any) -> dict[str, Any]:
    """Return those of a model that mixes linear and full attention, with a shared expert that has a gate of its own."""
    return tiny_values(
        num_experts=8,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
        head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        **changes,
    )
