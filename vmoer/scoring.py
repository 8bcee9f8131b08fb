"""Score the options of multiple-choice questions: by likelihood of their text, or by the letter that names them.

The prompt runs once per question (and per routing sample); its keys and values are then shared by all options. With
``samples > 1`` every routing sample is carried through the whole model and yields its own scores, so that *answers* can
be averaged: that is the ``predictive`` estimator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vmoer.errors import VmoerError
from vmoer.handle import Handle, evaluation
from vmoer.tap import tap_of

Normalise = Literal["mean", "sum"]
Progress = Callable[[int, int], None]


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
    handle: Handle | None = None,
    samples: int = 1,
    expand: Callable[[int], AbstractContextManager[None]] | None = None,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> list[OptionScores]:
    """Log-likelihood of each option as continuation of its prompt, in the order given.

    Option texts carry their own leading space. ``samples > 1`` needs ``handle`` (routing samples 0 … samples − 1) or
    ``expand``, a context that makes the model answer every row ``samples`` times (:mod:`vmoer.controls`). Memory is
    bounded by ``batch_tokens`` prompt tokens per forward pass.
    """
    if samples > 1 and handle is None and expand is None:
        raise VmoerError("More than one sample needs Bayesian routers (a handle) or a noise control.")
    encoded = [
        _encode(tokenizer, i, prompt, texts) for i, (prompt, texts) in enumerate(zip(prompts, options, strict=True))
    ]
    results: list[OptionScores | None] = [None] * len(encoded)
    repeated = samples if expand is None else 1
    done = 0
    with evaluation(model), torch.inference_mode():
        for batch in _batches(encoded, batch_tokens // min(repeated, 8)):
            for item, result in zip(batch, _score(model, batch, handle, samples, expand, batch_tokens), strict=True):
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


def _batches(encoded: list[_Encoded], budget: int) -> Iterator[list[_Encoded]]:
    """Questions of similar length together, so that padding stays small."""
    batch: list[_Encoded] = []
    for item in sorted(encoded, key=lambda item: (len(item.prompt), item.number)):
        if batch and (len(batch) + 1) * len(item.prompt) > budget:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _score(
    model: nn.Module,
    batch: list[_Encoded],
    handle: Handle | None,
    samples: int,
    expand: Callable[[int], AbstractContextManager[None]] | None,
    batch_tokens: int,
) -> list[OptionScores]:
    """Scores of one batch; routing samples are run in groups that keep to the token budget."""
    n_tokens = [np.array([len(option) for option in item.options]) for item in batch]
    tokens = sum(len(item.prompt) for item in batch)
    if handle is None or samples == 1:
        totals = _log_likelihood(model, batch, None, None, expand, samples if expand is not None else 1)
    else:
        group = max(batch_tokens // tokens, 1)
        parts = []
        for first in range(0, samples, group):
            ids = torch.arange(first, min(first + group, samples))
            parts.append(_log_likelihood(model, batch, handle, ids, None, 1))
        totals = torch.cat(parts, dim=0)
    results = []
    start = 0
    for counts in n_tokens:
        part = totals[:, start : start + len(counts)]
        results.append(OptionScores(part.double().numpy(), counts))
        start += len(counts)
    return results


def _log_likelihood(
    model: nn.Module,
    batch: list[_Encoded],
    handle: Handle | None,
    sample_ids: Tensor | None,
    expand: Callable[[int], AbstractContextManager[None]] | None,
    copies: int,
) -> Tensor:
    """Summed log-likelihoods ``[samples, options of all questions]`` (CPU, float32).

    Rows are questions (times routing samples, sample-major). ``copies`` is how often ``expand`` makes the head answer.
    """
    from transformers import DynamicCache

    device = next(model.parameters()).device
    rows = len(batch)
    draws = len(sample_ids) if sample_ids is not None else 1
    ids, mask = _left_padded([item.prompt for item in batch], device)
    ids, mask = ids.repeat(draws, 1), mask.repeat(draws, 1)
    per_row = sample_ids.to(device).repeat_interleave(rows) if sample_ids is not None else None
    flat = [option for item in batch for option in item.options]
    owner = torch.tensor([row for row, item in enumerate(batch) for _ in item.options], device=device)
    question = torch.cat([owner + rows * draw for draw in range(draws)])
    tail = max(len(option) for option in flat) - 1

    def sampled(of_row: Tensor | None) -> AbstractContextManager[None]:
        return handle.one_draw(of_row) if handle is not None else nullcontext()

    def expanded(keep: int) -> AbstractContextManager[None]:
        return expand(keep) if expand is not None else nullcontext()

    cache = DynamicCache(config=model.config) if tail > 0 else None
    with sampled(per_row), expanded(1):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp_min(0),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1,
        )
    first = _unfold(out.logits.float(), copies).log_softmax(-1)[:, :, 0]
    heads = torch.tensor([option[0] for option in flat], device=device).repeat(draws)
    total = first[:, question].gather(-1, heads.expand(copies, -1)[..., None])[..., 0]
    if cache is not None:
        option_ids, option_mask = _right_padded([option[:-1] for option in flat], tail, device)
        targets, _ = _right_padded([option[1:] for option in flat], tail, device)
        option_ids, option_mask = option_ids.repeat(draws, 1), option_mask.repeat(draws, 1)
        cache.batch_select_indices(question)
        tap_of(model).select_running(cache, question)
        full_mask = torch.cat([mask[question], option_mask], dim=1)
        position = (full_mask.cumsum(1) - 1).clamp_min(0)[:, -tail:]
        with sampled(per_row[question] if per_row is not None else None), expanded(tail):
            rest = model(
                input_ids=option_ids, attention_mask=full_mask, position_ids=position, past_key_values=cache
            ).logits
        log_p = _unfold(rest.float(), copies).log_softmax(-1)
        chosen = log_p.gather(-1, targets.repeat(draws, 1).expand(copies, -1, -1)[..., None])[..., 0]
        total = total + (chosen * option_mask).sum(-1)
    return total.reshape(copies * draws, len(flat)).cpu()


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
