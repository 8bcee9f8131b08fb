"""As many tokens in one forward pass as the device's memory holds: found by a probe, halved when memory runs out, and
doubled again when it has sufficed for long, since other programs may have had it meanwhile.

How inputs are grouped changes no result but its last bits (padding is masked and noise is keyed by token), so running
out of memory costs time, never the computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch

from vmoer.errors import VmoerError

Item = TypeVar("Item")
Result = TypeVar("Result")

#: share of the memory there is that a pass may be expected to take
_SHARE = 0.8
#: passes that succeed before more is tried; twice as many after each halving, so that a small memory is left in peace
_PATIENCE = 64


@dataclass
class TokenBudget:
    """Most ``tokens`` of one forward pass, padding included, never more than ``most`` (0: those of the start);
    ``tell(sentence)`` hears when they change.
    """

    tokens: int
    tell: Callable[[str], None] = field(default=lambda sentence: None)
    most: int = 0
    _succeeded: int = field(default=0, init=False, repr=False)
    _patience: int = field(default=_PATIENCE, init=False, repr=False)

    def __post_init__(self) -> None:
        self.most = max(self.most, self.tokens)

    def halve(self, failed: int) -> None:
        """Allow half of the ``failed`` tokens that were too many, and give back what the allocator keeps."""
        before, self.tokens = self.tokens, max(min(self.tokens, failed) // 2, 1)
        self._succeeded, self._patience = 0, 2 * self._patience
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.tell(f"out of memory: forward passes hold {self.tokens} tokens from now on instead of {before}")

    def _grow(self) -> None:
        """Allow twice as many again after enough passes that succeeded."""
        self._succeeded += 1
        if self.tokens < self.most and self._succeeded >= self._patience:
            before, self.tokens = self.tokens, min(2 * self.tokens, self.most)
            self._succeeded = 0
            self.tell(f"memory suffices: forward passes hold {self.tokens} tokens from now on instead of {before}")

    def passes(
        self,
        items: Sequence[Item],
        size: Callable[[Sequence[Item]], int],
        work: Callable[[Sequence[Item]], Result],
        repeated: int = 1,
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """``(part, work(part))`` for ``items`` as one part, or in ever smaller ones where memory runs out.

        ``size(part)`` is its tokens, each of which a pass holds ``repeated`` times; ``work`` may look at the budget
        itself. Raises :class:`VmoerError` when a single item does not fit.
        """
        waiting, smallest_failed = [items], None
        while waiting:
            part = waiting.pop(0)
            # what did not fit once is not tried again whole, so that each size costs one failure and one halving
            if len(part) == 1 or smallest_failed is None or size(part) < smallest_failed:
                found: list[Result] = []
                with suppress(torch.OutOfMemoryError):  # gone on below, when no traceback holds what filled the memory
                    found.append(work(part))
                if found:
                    self._grow()
                    yield part, found[0]
                    continue
                if len(part) == 1 and self.tokens <= size(part):
                    raise VmoerError(
                        f"{size(part)} tokens do not fit into the memory of this device in one forward pass; use a "
                        "smaller model, `dtype: bfloat16` or fewer samples"
                    )
                smallest_failed = size(part)
                self.halve(repeated * smallest_failed)
            middle = (len(part) + 1) // 2
            waiting[:0] = [half for half in (part[:middle], part[middle:]) if half]


class Memory(Protocol):
    """What a probe asks about a device, in bytes."""

    def limit(self) -> int:
        """What this process could have in all."""
        ...

    def used(self) -> int:
        """What it has now."""
        ...

    def peak(self, work: Callable[[], object]) -> int:
        """The most it had while ``work`` ran."""
        ...


class CudaMemory:
    """The memory of one CUDA device, as PyTorch's allocator counts it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def limit(self) -> int:
        """Free on the device plus what the allocator holds already."""
        return torch.cuda.mem_get_info(self._device)[0] + torch.cuda.memory_reserved(self._device)

    def used(self) -> int:
        """Bytes in live tensors."""
        return torch.cuda.memory_allocated(self._device)

    def peak(self, work: Callable[[], object]) -> int:
        """Most bytes in live tensors while ``work`` ran."""
        torch.cuda.reset_peak_memory_stats(self._device)
        work()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device)


#: what the driver says where PyTorch has no error of its own: a context that finds no room, Apple's processors
_FULL = ("CUDA error: out of memory", "MPS backend out of memory")


def exhausted(doing: str, error: BaseException) -> VmoerError | None:
    """The refusal for a device whose memory was full while ``doing`` that; ``None`` for an error about something else.

    Where a pass cannot be made smaller (the model itself, a training step), or other programs hold the memory.
    """
    said = str(error) if isinstance(error, RuntimeError) else ""
    if not isinstance(error, torch.OutOfMemoryError) and not any(words in said for words in _FULL):
        return None
    free = ""
    # after an error of the driver nothing more may be asked of it in this process
    if torch.cuda.is_available() and isinstance(error, torch.OutOfMemoryError):
        left, whole = (size / 2**30 for size in torch.cuda.mem_get_info())
        free = f" ({left:.1f} of {whole:.1f} GiB are free now)"
    return VmoerError(
        f"{doing} ran out of memory{free}: lower `batch_tokens` or `micro_batch` in the spec, use `dtype: bfloat16`, "
        "or end other programs that use the device"
    )


def device_memory(device: torch.device) -> Memory | None:
    """How a device's memory is measured; ``None`` where it is not the device's own (CPU, MPS)."""
    return CudaMemory(device) if device.type == "cuda" else None


def probe(work: Callable[[int], object], smallest: int, largest: int, memory: Memory) -> int:
    """The largest of ``smallest``, its doublings and ``largest`` whose pass leaves a fifth of the memory free.

    ``work(tokens)`` is one pass. A size is tried only when what the last one took, scaled up to it, would fit.
    """
    tokens, base = smallest, memory.used()
    try:
        taken = memory.peak(lambda: work(tokens)) - base
    except torch.OutOfMemoryError:
        return tokens  # the budget is halved where it is used
    while tokens < largest:
        following = min(2 * tokens, largest)
        if base + taken * following / tokens > _SHARE * memory.limit():
            break
        try:
            taken = memory.peak(lambda size=following: work(size)) - base  # type: ignore[misc]
        except torch.OutOfMemoryError:
            break
        tokens = following
    return tokens
