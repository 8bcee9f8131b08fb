"""Run a model for measurement: batches, evaluation mode, and tokens that need no meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vmoer.devices import running_device

Batch = Mapping[str, Tensor]


def random_tokens(model: nn.Module, rows: int = 4, length: int = 64) -> dict[str, Tensor]:
    """A batch of random token ids (own generator), for measurements that need no meaning."""
    whole: Any = model.config
    config = whole.get_text_config()
    generator = torch.Generator().manual_seed(0)
    length = min(length, getattr(config, "max_position_embeddings", length))
    ids = torch.randint(0, config.vocab_size, (rows, length), generator=generator)
    device = running_device(model)
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
