"""Which questions a training step sees, at what learning rate, and how far its gradient may reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from vmoer.rng import mix_int
from vmoer.training.config import Example, TrainingConfig


def batch_of_step(
    examples: Sequence[Example], step: int, per_epoch: int, config: TrainingConfig, members: int
) -> list[Example]:
    """The questions of one step, for each member: a function of the data seed and the step alone."""
    epoch, index = divmod(step, per_epoch)
    batch = []
    for member in range(members):
        key = (config.data_seed, epoch, member) if member else (config.data_seed, epoch)
        generator = torch.Generator().manual_seed(mix_int(*key) & 0x7FFFFFFF)
        order = torch.randperm(len(examples), generator=generator).tolist()
        chosen = order[index * config.batch_size : (index + 1) * config.batch_size]
        batch += [replace(examples[i], member=member) for i in chosen]
    return sorted(batch, key=lambda e: len(e.prompt) + len(e.answer))


def rate(step: int, total: int, warmup: float, constant: bool) -> float:
    """Linear warm-up, then ``constant`` or cosine to zero."""
    start = max(int(total * warmup), 1)
    if step < start:
        return (step + 1) / start
    if constant:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - start) / max(total - start, 1)))


def clip_gradients(parameters: list[nn.Parameter], limit: float, members: int) -> None:
    """Bound the gradient's norm, of each member by itself: the first axis of an ensemble's parameters counts them."""
    if members == 1:
        nn.utils.clip_grad_norm_(parameters, limit)
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factors = (limit / (norms + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
