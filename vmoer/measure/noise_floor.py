"""The numeric noise floor of routing: how many top-k sets change with the number format or the expert kernel alone.

The whole model runs twice on the same tokens, so a flip in one layer moves the layers above, as it does in practice.
The reference is the model in float32 with plain (``eager``) experts; the others are bfloat16 with the same experts, and
float32 with each other expert kernel. An instability no larger than this floor says nothing about the router.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vmoer.errors import VmoerError
from vmoer.forward.hooks import tap_of
from vmoer.forward.modes import evaluation
from vmoer.measure.susceptibility import jaccard

#: expert kernels of transformers that run on every device
KERNELS = ("eager", "grouped_mm")


@dataclass(frozen=True)
class NoiseFloor:
    """One comparison with the reference; ``token_jaccard`` is ``[layers, real tokens]``, 1 where the set is the same.

    ``comparison`` is ``bfloat16`` or an expert kernel's name; ``example [tokens]`` numbers the rows of the batches.
    """

    comparison: str
    layers: list[int]
    token_jaccard: NDArray[np.float32]
    example: NDArray[np.int64]

    @property
    def changed(self) -> NDArray[np.int64]:
        """Tokens per layer whose set of experts changed."""
        count: NDArray[np.int64] = (self.token_jaccard < 1).sum(-1)
        return count


def measure(model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> list[NoiseFloor]:
    """Every comparison on tokenised ``batches``; ``model`` must be native, is copied once and left as it is."""
    if not batches:
        raise VmoerError("The noise floor needs at least one batch of tokens.")
    tap = tap_of(model)
    if tap.in_use:
        raise VmoerError("The noise floor is measured on the native model; restore its routers and recorders first.")
    reference: Any = copy.deepcopy(tap.model).float()
    found = expert_kernels(reference)
    expected = _experts(reference, batches)
    floors = []
    for name in found[1:]:
        reference.set_experts_implementation(name)
        floors.append(_compare(name, expected, _experts(reference, batches), batches))
    if found:
        reference.set_experts_implementation(found[0])
    low = _experts(reference.to(torch.bfloat16), batches)
    return [_compare("bfloat16", expected, low, batches), *floors]


def expert_kernels(model: Any) -> tuple[str, ...]:
    """The :data:`KERNELS` that ``model.set_experts_implementation`` takes; the last one tried stays set."""
    names = []
    for name in reversed(KERNELS):
        with suppress(ValueError):
            model.set_experts_implementation(name)
            names.append(name)
    return tuple(reversed(names))


def _experts(model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> dict[int, Tensor]:
    """Expert indices ``[real tokens, k]`` by layer."""
    found: dict[int, list[Tensor]] = {}

    def keep(site: Any, decision: Any, frame: Any) -> None:
        real = frame.mask.reshape(-1).to(decision.index.device)
        found.setdefault(site.layer, []).append(decision.index[real].cpu())

    with evaluation(model), tap_of(model).listening(keep), torch.inference_mode():
        for batch in batches:
            model(**batch)
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def _compare(
    comparison: str, expected: dict[int, Tensor], found: dict[int, Tensor], batches: Sequence[Mapping[str, Tensor]]
) -> NoiseFloor:
    index = torch.stack([jaccard(expected[layer], found[layer]) for layer in expected])
    return NoiseFloor(comparison, list(expected), index.numpy(), np.fromiter(_rows(batches), np.int64))


def _rows(batches: Sequence[Mapping[str, Tensor]]) -> Iterator[int]:
    """The number of each real token's row over all batches."""
    first = 0
    for batch in batches:
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        for row, count in enumerate(mask.sum(-1).tolist()):
            yield from [first + row] * int(count)
        first += mask.shape[0]
