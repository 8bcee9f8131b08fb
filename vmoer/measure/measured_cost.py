"""What a forward pass costs, counted and measured: FLOPs, seconds in prefill and decode, peak bytes of live tensors."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Batch = Mapping[str, Tensor]


def counted_flops(model: nn.Module, batch: Batch) -> int:
    """Floating-point operations of matrix products in one pass (a multiply–accumulate is two).

    Experts run one by one: fused kernels are not all known to the counter.
    """
    with eager_experts(model), FlopCounterMode(display=False) as counter:
        model(**batch, logits_to_keep=1)
    return int(counter.get_total_flops())


@contextmanager
def eager_experts(model: nn.Module) -> Iterator[None]:
    """Inside the block the experts run as plain matrix products."""
    config: Any = model.config
    before = getattr(config, "_experts_implementation", None)
    config._experts_implementation = "eager"
    try:
        yield
    finally:
        config._experts_implementation = before


def prefill_seconds(model: nn.Module, batch: Batch) -> float:
    """Seconds of one pass over whole prompts: of the processor on a CPU, of the clock on a GPU."""
    return _timed(batch, lambda: model(**batch, logits_to_keep=1))


def decode_seconds(model: nn.Module, batch: Batch, tokens: int) -> float:
    """Seconds, likewise, of ``tokens`` steps of one token each behind the cached prompts (which are not timed)."""
    filled = model(**batch, use_cache=True, logits_to_keep=1)
    token = filled.logits[:, -1:].argmax(-1)
    mask = batch["attention_mask"]

    def steps() -> None:
        nonlocal mask
        for _ in range(tokens):
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
            model(input_ids=token, attention_mask=mask, past_key_values=filled.past_key_values, use_cache=True)

    return _timed(batch, steps)


def peak_bytes(model: nn.Module, batch: Batch) -> int:
    """Most bytes alive at once in tensors that one pass makes; the model's weights are not counted."""
    with _Memory() as memory:
        model(**batch, logits_to_keep=1)
    return memory.peak


class _Memory(TorchDispatchMode):
    """Follows the storages that operations create, on any device, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage(), before)
        return result

    def _follow(self, storage: Any, inputs: set[int]) -> None:
        key = id(storage)
        if key in self._known or key in inputs:  # a view of what was there
            return
        self._known.add(key)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _timed(batch: Batch, work: Any) -> float:
    device = batch["input_ids"].device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start
