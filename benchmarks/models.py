"""Random-weight GraniteMoe models of two sizes; weights do not matter for time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vmoer.testing import tiny_model

#: name → (what it is, overrides of the tiny configuration)
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "small": (
        "GraniteMoe with random weights, 8 layers, hidden 256, 16 experts of 128, top-4",
        {
            "vocab_size": 4096,
            "hidden_size": 256,
            "intermediate_size": 128,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "num_local_experts": 16,
            "num_experts_per_tok": 4,
            "max_position_embeddings": 1024,
        },
    ),
    "granite-1b-shape": (
        "GraniteMoe with random weights, hidden 1024, 32 experts of 512, top-8 (Granite-3.1-1B-A400M), 4 of 24 layers",
        {
            "vocab_size": 49155,
            "hidden_size": 1024,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "num_local_experts": 32,
            "num_experts_per_tok": 8,
            "max_position_embeddings": 1024,
        },
    ),
}


def build(size: str) -> tuple[Any, str]:
    """The model of that size on the best device there is, and its description."""
    description, overrides = SIZES[size]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = tiny_model(**overrides).to(device)
    return model, f"{description}, {device}, {torch.get_num_threads()} threads, float32"


def batch(model: Any, rows: int, length: int) -> dict[str, Tensor]:
    """Random tokens without padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, model.config.vocab_size, (rows, length), generator=generator).to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
