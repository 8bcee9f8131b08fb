"""Score the options of multiple-choice questions: by likelihood of their text, or by the letter that names them.

The prompt runs once per question (and per routing sample); its keys and values are then shared by all options. With
``samples > 1`` every routing sample is carried through the whole model and yields its own scores, so that *answers* can
be averaged: that is the ``predictive`` estimator. It samples routing at *all* positions of the prompt, or only at the
*scored* ones (the last of the prompt and the options'): then the prompt before runs once, averaged inside the routers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vmoer.devices import running_device
from vmoer.errors import UnknownNameError, VmoerError
from vmoer.forward.hooks import tap_of
from vmoer.forward.modes import evaluation
from vmoer.registry import unknown_name
from vmoer.scoring.likelihood import log_probabilities_of
from vmoer.scoring.token_budget import TokenBudget
from vmoer.scoring.upper_layers import borrow_lower_layers, entering_at, fork_cache, hidden_before

Normalise = Literal["mean", "sum"]
Positions = Literal["all", "scored"]
Progress = Callable[[int, int], None]


class Sampler(Protocol):
    """What can be sampled in the layers of a model: Bayesian routers (a ``Handle``) or a control's noise."""

    @property
    def layers(self) -> list[int]: ...

    @property
    def support(self) -> int | None: ...

    def one_draw(self, sample_ids: Tensor | None = None, stream: int = 0) -> AbstractContextManager[None]: ...

    def averaged(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class OptionScores:
    """``log_likelihood`` is ``[samples, options]`` in nats, summed over each option's ``n_tokens [options]`` tokens."""

    log_likelihood: NDArray[np.float64]
    n_tokens: NDArray[np.int64]

    def scores(self, normalise: Normalise = "mean") -> NDArray[np.float64]:
        """``[samples, options]``: log-likelihood per token (``mean``) or of the whole option (``sum``)."""
        return self.log_likelihood / self.n_tokens if normalise == "mean" else self.log_likelihood

    def probabilities(self, normalise: Normalise = "mean") -> NDArray[np.float64]:
        """``[samples, options]``: softmax of the scores over the options, per sample."""
        scores = self.scores(normalise)
        shifted = np.exp(scores - scores.max(-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True)


@dataclass(frozen=True)
class _Encoded:
    number: int
    prompt: list[int]
    options: list[list[int]]


def score_options(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    handle: Sampler | None = None,
    samples: int = 1,
    expand: Callable[[int], AbstractContextManager[None]] | None = None,
    positions: Positions = "all",
    batch_tokens: int | TokenBudget = 4096,
    progress: Progress | None = None,
) -> list[OptionScores]:
    """Log-likelihood of each option as continuation of its prompt, in the order given.

    Option texts carry their own leading space. ``samples > 1`` needs ``handle`` (routing samples 0 … samples − 1) or
    ``expand``, a context that makes the model answer every row ``samples`` times
    (:mod:`vmoer.measure.noise_controls`). ``positions`` says where the samples differ: at all positions, or, cheaper
    and not the same, only at those that are scored. An ensemble has as many samples as members and yields no more.
    A pass holds at most ``batch_tokens`` prompt tokens; where that is too much, it is done in halves.
    """
    if positions not in get_args(Positions):
        raise UnknownNameError(unknown_name("choice of positions", positions, list(get_args(Positions))))
    if samples > 1 and handle is None and expand is None:
        raise VmoerError("More than one sample needs Bayesian routers (a handle) or a noise control.")
    encoded = [
        _encode(tokenizer, i, prompt, texts) for i, (prompt, texts) in enumerate(zip(prompts, options, strict=True))
    ]
    if handle is not None and handle.support is not None:
        samples = min(samples, handle.support)
    results: list[OptionScores | None] = [None] * len(encoded)
    budget = batch_tokens if isinstance(batch_tokens, TokenBudget) else TokenBudget(batch_tokens)
    repeated = min(samples, 8)

    def work(batch: Sequence[_Encoded]) -> list[OptionScores]:
        return _score(model, batch, handle, samples, expand, positions, budget.tokens)

    done = 0
    with evaluation(model), torch.inference_mode():
        for batch in _batches(encoded, budget, repeated):
            for part, scored in budget.passes(batch, _prompt_tokens, work, repeated):
                for item, result in zip(part, scored, strict=True):
                    results[item.number] = result
            done += len(batch)
            if progress is not None:
                progress(done, len(encoded))
    return [result for result in results if result is not None]


def score_letters(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    n_options: Sequence[int],
    **arguments: Any,
) -> list[OptionScores]:
    """Log-probability of the letters A, B, C … as the token after each prompt; arguments as :func:`score_options`."""
    letters = [[f" {chr(65 + i)}" for i in range(n)] for n in n_options]
    scored = score_options(model, tokenizer, prompts, letters, **arguments)
    if any((result.n_tokens != 1).any() for result in scored):
        raise VmoerError("This tokenizer splits ' A' into several tokens; use likelihood scoring.")
    return scored


def _encode(tokenizer: Any, number: int, prompt: str, options: Sequence[str]) -> _Encoded:
    ids = tokenizer(prompt)["input_ids"]
    if not ids:
        raise VmoerError(f"Prompt {number} is empty: there is nothing to route.")
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in options]
    empty = [i for i, option in enumerate(encoded) if not option]
    if empty:
        raise VmoerError(f"Option {empty[0]} of prompt {number} has no tokens.")
    return _Encoded(number, ids, encoded)


def _prompt_tokens(batch: Sequence[_Encoded]) -> int:
    return sum(len(item.prompt) for item in batch)


def _batches(encoded: list[_Encoded], budget: TokenBudget, repeated: int) -> Iterator[list[_Encoded]]:
    """Questions of similar length together, so that padding stays small; each is run ``repeated`` times at once."""
    batch: list[_Encoded] = []
    for item in sorted(encoded, key=lambda item: (len(item.prompt), item.number)):
        if batch and (len(batch) + 1) * len(item.prompt) > budget.tokens // repeated:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _score(
    model: nn.Module,
    batch: Sequence[_Encoded],
    handle: Sampler | None,
    samples: int,
    expand: Callable[[int], AbstractContextManager[None]] | None,
    positions: Positions,
    batch_tokens: int,
) -> list[OptionScores]:
    """Scores of one batch; routing samples are run in groups that keep to the token budget."""
    n_tokens = [np.array([len(option) for option in item.options]) for item in batch]
    tokens = _prompt_tokens(batch)
    if handle is None or samples == 1:
        totals = _log_likelihood(model, batch, None, None, expand, samples if expand is not None else 1)
    else:
        group = max(batch_tokens // tokens, 1)
        prefix = _prefix(model, handle, batch) if positions == "scored" else None
        parts = []
        for first in range(0, samples, group):
            ids = torch.arange(first, min(first + group, samples))
            parts.append(_log_likelihood(model, batch, handle, ids, None, 1, prefix))
        totals = torch.cat(parts, dim=0)
    results = []
    start = 0
    for counts in n_tokens:
        part = totals[:, start : start + len(counts)]
        results.append(OptionScores(part.double().numpy(), counts))
        start += len(counts)
    return results


def _prefix(model: nn.Module, handle: Sampler, batch: Sequence[_Encoded]) -> Any:
    """Keys and values of all prompts but their last tokens, routing averaged; ``None`` when there are none."""
    from transformers import DynamicCache

    ids, mask = _left_padded([item.prompt for item in batch], next(model.parameters()).device)
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


def _log_likelihood(
    model: nn.Module,
    batch: Sequence[_Encoded],
    handle: Sampler | None,
    sample_ids: Tensor | None,
    expand: Callable[[int], AbstractContextManager[None]] | None,
    copies: int,
    prefix: Any = None,
) -> Tensor:
    """Summed log-likelihoods ``[samples, options of all questions]`` (CPU, float32).

    Rows are questions (times routing samples, sample-major). ``copies`` is how often ``expand`` makes the head answer;
    ``prefix`` the cache of :func:`_prefix`.
    """
    device = running_device(model)
    rows = len(batch)
    draws = len(sample_ids) if sample_ids is not None else 1
    flat = [option for item in batch for option in item.options]
    owner = torch.tensor([row for row, item in enumerate(batch) for _ in item.options], device=device)
    question = torch.cat([owner + rows * draw for draw in range(draws)])
    tail = max(len(option) for option in flat) - 1
    run = _Passes(model, handle, sample_ids, expand, tail > 0, prefix)

    ids, mask = _left_padded([item.prompt for item in batch], device)
    heads = torch.tensor([option[0] for option in flat], device=device).repeat(draws)
    total = log_probabilities_of(_unfold(run.prompt(ids, mask), copies), question, heads[:, None])[..., 0]
    if tail > 0:
        option_ids, option_mask = _right_padded([option[:-1] for option in flat], tail, device)
        targets, _ = _right_padded([option[1:] for option in flat], tail, device)
        logits = _unfold(run.options(option_ids, mask, option_mask, owner, question), copies)
        chosen = log_probabilities_of(logits, torch.arange(len(question), device=device), targets.repeat(draws, 1))
        total = total + (chosen * option_mask.repeat(draws, 1)).sum(-1)
    return total.reshape(copies * draws, len(flat)).cpu()


class _Passes:
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
        from transformers import DynamicCache

        self.model, self.handle, self.sample_ids, self.expand = model, handle, sample_ids, expand
        self.draws = len(sample_ids) if sample_ids is not None else 1
        self.split = min(handle.layers) if handle is not None and self.draws > 1 else 0
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
            ).logits


def _unfold(logits: Tensor, copies: int) -> Tensor:
    """``[copies · rows, …]`` → ``[copies, rows, …]``."""
    return logits.reshape(copies, -1, *logits.shape[1:])


def _left_padded(sequences: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, sequences))
    ids = torch.tensor([[0] * (width - len(s)) + s for s in sequences], device=device)
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences], device=device)
    return ids, mask


def _right_padded(sequences: list[list[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences], device=device)
    mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=device)
    return ids, mask
