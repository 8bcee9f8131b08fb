"""The forward passes of option scoring: prompts, then all options against the prompts' keys and values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vmoer.forward.hooks import tap_of
from vmoer.scoring.upper_layers import borrow_lower_layers, entering_at, fork_cache, hidden_before


class Sampler(Protocol):
    """What can be sampled in the layers of a model: Bayesian routers (a ``Handle``) or a control's noise."""

    @property
    def layers(self) -> list[int]: ...

    @property
    def support(self) -> int | None: ...

    def one_draw(self, sample_ids: Tensor | None = None, stream: int = 0) -> AbstractContextManager[None]: ...

    def averaged(self) -> AbstractContextManager[None]: ...


class Passes:
    """The two forward passes of one batch: prompts, then all options against the prompts' keys and values.

    With routing samples the layers below the first Bayesian router run once and the rest once per sample.
    """

    def __init__(
        self,
        model: nn.Module,
        handle: Sampler | None,
        sample_ids: Tensor | None,
        expand: Callable[[int], AbstractContextManager[None]] | None,
        shared_cache: bool,
        prefix: Any,
    ) -> None:
        self.model, self.handle, self.sample_ids, self.expand = model, handle, sample_ids, expand
        self.draws = len(sample_ids) if sample_ids is not None else 1
        divisible = handle is not None and self.draws > 1 and tap_of(model).architecture.divisible
        self.split = min(handle.layers) if handle is not None and divisible else 0
        self.prefix = prefix
        if prefix is not None:
            self.cache = fork_cache(model, prefix)
            self.lower = fork_cache(model, prefix) if self.split else None
        else:
            self.cache = DynamicCache(config=model.config) if shared_cache else None
            self.lower = DynamicCache(config=model.config) if shared_cache and self.split else None

    def prompt(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits ``[draws · rows, 1, vocabulary]`` after left-padded prompts ``[rows, length]``."""
        if self.prefix is None:
            return self._run(ids, mask, mask, keep=1)
        self._follow(torch.arange(len(ids), device=ids.device).repeat(self.draws))
        return self._run(ids[:, -1:], mask, mask[:, -1:], keep=1)

    def options(self, ids: Tensor, prompt_mask: Tensor, mask: Tensor, owner: Tensor, question: Tensor) -> Tensor:
        """Logits ``[draws · options, length, vocabulary]``; ``owner`` and ``question`` select the prompts' rows."""
        if self.lower is not None:
            self.lower.reorder_cache(owner)
        self._follow(question)
        full = torch.cat([prompt_mask[owner], mask], dim=1)
        if tap_of(self.model).architecture.continues_cache:
            return self._run(ids, full, mask, keep=ids.shape[1])
        past = prompt_mask.shape[1]
        steps = [
            self._run(ids[:, i : i + 1], full[:, : past + i + 1], mask[:, i : i + 1], keep=1)
            for i in range(ids.shape[1])
        ]
        return torch.cat(steps, dim=1)

    def _follow(self, index: Tensor) -> None:
        """Row i of the cache continues what row ``index[i]`` had read."""
        assert self.cache is not None
        for layer in self.cache.layers[self.split :]:
            layer.reorder_cache(index)  # batch_select_indices is missing in layers of linear attention
        tap_of(self.model).select_running(self.cache, index)

    def _run(self, ids: Tensor, full_mask: Tensor, mask: Tensor, keep: int) -> Tensor:
        position = (full_mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        inputs = {"input_ids": ids, "attention_mask": full_mask, "position_ids": position}
        entry: AbstractContextManager[None] = nullcontext()
        if self.split:
            if self.lower is not None:  # layers that are skipped say how long the past is
                borrow_lower_layers(self.cache, self.lower, self.split)
            hidden = hidden_before(
                self.model, self.split, **inputs, past_key_values=self.lower, use_cache=self.lower is not None
            )
            entry = entering_at(self.model, self.split, hidden.repeat(self.draws, 1, 1))
        of_row = None
        if self.sample_ids is not None:
            of_row = self.sample_ids.to(ids.device).repeat_interleave(ids.shape[0])
        sampled = self.handle.one_draw(of_row) if self.handle is not None else nullcontext()
        expanded = self.expand(keep) if self.expand is not None else nullcontext()
        with entry, sampled, expanded:
            return self.model(
                **{name: value.repeat(self.draws, 1) for name, value in inputs.items()},
                past_key_values=self.cache,
                use_cache=self.cache is not None,
                logits_to_keep=keep,
            ).logits[:, -keep:]  # some models return all, whatever is asked for


def averaged_prefix(model: nn.Module, handle: Sampler, prompts: list[list[int]]) -> Any:
    """Keys and values of all prompts but their last tokens, routing averaged; ``None`` when there are none."""
    ids, mask = left_padded(prompts, next(model.parameters()).device)
    if ids.shape[1] == 1:
        return None
    ids, mask = ids[:, :-1], mask[:, :-1]
    cache = DynamicCache(config=model.config)
    position = (mask.cumsum(1) - 1).clamp_min(0)
    with handle.averaged():
        model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return cache


def left_padded(sequences: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask, both ``[sequences, longest]``, padded in front."""
    width = max(map(len, sequences))
    ids = torch.tensor([[0] * (width - len(s)) + s for s in sequences], device=device)
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences], device=device)
    return ids, mask


def right_padded(sequences: list[list[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask, both ``[sequences, width]``, padded behind."""
    ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences], device=device)
    mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=device)
    return ids, mask
