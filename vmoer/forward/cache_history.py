"""What a key–value cache has read: the noise key at each of its slots, cropped, reordered and copied with the cache.

The history lies on the cache itself. So a cache that forgets (``crop``), whose rows change places (beam search) or
that is copied takes along what its tokens were, and a cache that this library has not watched has none.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NAME = "_vmoer_history"
_FOLLOWED = ("crop", "reset", "reorder_cache", "batch_select_indices", "batch_repeat_interleave")


@dataclass
class _History:
    """``sums [rows, slots]``: the noise key of everything up to each slot.

    ``whole`` is False where the first tokens were not watched: their keys are zero.
    """

    sums: Tensor
    whole: bool


class _Following:
    """A method of one cache that changes its rows or its length, and its history with them."""

    def __init__(self, cache: Any, name: str) -> None:
        self._cache = weakref.ref(cache)  # a cycle would keep the cache's memory until the next collection
        self._name = name

    def __call__(self, *args: Any, **arguments: Any) -> None:
        cache: Any = self._cache()
        getattr(type(cache), self._name)(cache, *args, **arguments)
        history = getattr(cache, _NAME)
        sums = history.sums
        if self._name in ("crop", "reset"):  # at once: what is read next may go unwatched, up to the same length
            sums = sums[:, : int(cache.get_seq_length())]
        else:
            (rows,) = (*args, *arguments.values())
            repeated = self._name == "batch_repeat_interleave"
            sums = sums.repeat_interleave(rows, dim=0) if repeated else sums[torch.as_tensor(rows, device=sums.device)]
        remember(cache, sums, history.whole)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Following, (self._cache(), self._name)  # of the copy, in a copied or pickled cache


def remember(cache: Any, sums: Tensor, whole: bool) -> None:
    """Note what all slots of ``cache`` have read, ``[rows, slots]``, and whether all of them were watched."""
    setattr(cache, _NAME, _History(sums, whole))
    for name in _FOLLOWED:
        if hasattr(type(cache), name):
            setattr(cache, name, _Following(cache, name))


def remember_new(output: Any, sums: Tensor) -> None:
    """Note what a cache has read that the model made itself in a pass, out of its ``output`` (named or a tuple)."""
    for value in output if isinstance(output, tuple) else vars(output).values():
        fresh = hasattr(value, "get_seq_length") and not hasattr(value, _NAME)
        if fresh and int(value.get_seq_length()) == sums.shape[1]:
            remember(value, sums, True)


def recall(cache: Any, rows: int, device: torch.device) -> tuple[Tensor, bool]:
    """``[rows, slots]`` for all slots that ``cache`` still has, and whether all of them were watched."""
    length = int(cache.get_seq_length())
    history = getattr(cache, _NAME, None)
    if length and history is not None:
        sums: Tensor = history.sums
        if sums.shape[0] == rows and sums.shape[1] >= length:
            return sums[:, :length], history.whole
    return torch.zeros(rows, length, dtype=torch.long, device=device), not length


def select_rows(cache: Any, index: Tensor) -> None:
    """Follow rows that were selected layer by layer: row i continues what row ``index[i]`` had read."""
    history = getattr(cache, _NAME, None)
    if history is not None:
        remember(cache, history.sums[index.to(history.sums.device)], history.whole)


def copy_history(cache: Any, fork: Any) -> None:
    """``fork``, a shallow copy of ``cache``, continues on its own what ``cache`` had read."""
    history = getattr(cache, _NAME, None)
    if history is not None:
        remember(fork, history.sums, history.whole)
