"""Models with random weights that run in milliseconds, and batches for them. They show plumbing, never quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vmoer.architectures import architecture_of, architectures

LENGTHS = (7, 3, 5)


def tiny_model(family: str = "GraniteMoeForCausalLM", seed: int = 0, **overrides: Any) -> Any:
    """A random-weight model of ``family`` in evaluation mode; the global random state is left as it was."""
    import transformers

    config = architectures.get(family)().tiny_config(family, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, family)(config)
        for site in architecture_of(model).sites(model):
            tensors = [*site.router.named_parameters(), *site.router.named_buffers()]
            tensors += [*site.block.named_parameters(recurse=False), *site.block.named_buffers(recurse=False)]
            for name, tensor in tensors:
                if name.endswith(("correction_bias", "expert_bias")):  # start at zero, where they correct nothing
                    tensor.data.normal_(std=0.1)
                elif tensor.dim() == 2 and not tensor.any():  # a router that starts at zero chooses nothing
                    tensor.data.normal_(std=0.2)
    return model.eval()


def tiny_batch(
    lengths: Sequence[int] = LENGTHS, side: str = "left", seed: int = 0, vocabulary: int = 97, width: int | None = None
) -> dict[str, Tensor]:
    """Rows of random tokens of the given ``lengths``, padded on ``side`` to ``width``; same seed, same tokens."""
    generator = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if side == "left" else slice(0, length)
        ids[row, place] = torch.randint(3, vocabulary, (length,), generator=generator)
        mask[row, place] = 1
    position = (mask.cumsum(1) - 1).clamp_min(0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": position}


def tiny_row(row: int, lengths: Sequence[int] = LENGTHS) -> dict[str, Tensor]:
    """One row of :func:`tiny_batch` without any padding."""
    batch = tiny_batch(lengths)
    return {name: value[row : row + 1, -lengths[row] :] for name, value in batch.items()}
