"""Score the options of multiple-choice questions: by likelihood of their text, or by the letter that names them.

The prompt runs once per question (and per routing sample); its keys and values are then shared by all options. With
``samples > 1`` every routing sample is carried through the whole model and yields its own scores, so that *answers* can
be averaged: that is the ``predictive`` estimator. It samples routing at *all* positions of the prompt, or only at the
*scored* ones (the last of the prompt and the options'): then the prompt before runs once, averaged inside the routers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vmoer.devices import running_device
from vmoer.errors import UnknownNameError, VmoerError
from vmoer.forward.modes import evaluation
from vmoer.models.context_limit import refuse_too_long
from vmoer.registry import unknown_name
from vmoer.scoring.answer_tokens import AnswerTokens, answer_tokens
from vmoer.scoring.likelihood import log_probabilities_of
from vmoer.scoring.passes import Passes, Sampler, averaged_prefix, left_padded, right_padded
from vmoer.scoring.token_budget import TokenBudget

#: most options behind one pass over a prompt, whose keys and values are copied for each
_TOGETHER = 10

Normalise = Literal["mean", "sum"]
Positions = Literal["all", "scored"]
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
class _Item:
    """Options of one text that share a context: all of them, unless the tokenizer joins some to the prompt's end."""

    number: int
    places: list[int]
    prompt: list[int]
    options: list[list[int]]


def score_options(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    special_tokens: bool = True,
    **arguments: Any,
) -> list[OptionScores]:
    """Log-likelihood of each option as continuation of its prompt, in the order given.

    Option texts carry their own leading space; their tokens are those of prompt + option after the prompt's own
    (:mod:`vmoer.scoring.answer_tokens`). ``special_tokens=False`` is for prompts that a chat template has rendered.
    Other arguments as :func:`score_tokens`.
    """
    texts = [
        answer_tokens(tokenizer, prompt, answers, special_tokens, f"prompt {number}")
        for number, (prompt, answers) in enumerate(zip(prompts, options, strict=True))
    ]
    return score_tokens(model, texts, **arguments)


def score_tokens(
    model: nn.Module,
    texts: Sequence[AnswerTokens],
    *,
    handle: Sampler | None = None,
    samples: int = 1,
    expand: Callable[[int], AbstractContextManager[None]] | None = None,
    positions: Positions = "all",
    batch_tokens: int | TokenBudget = 4096,
    progress: Progress | None = None,
) -> list[OptionScores]:
    """Log-likelihood of the answers of each text, in the order given.

    ``samples > 1`` needs ``handle`` (routing samples 0 … samples − 1) or ``expand``, a context that makes the model
    answer every row ``samples`` times (:mod:`vmoer.measure.noise_controls`). ``positions`` says where the samples
    differ: at all positions, or, cheaper and not the same, only at those that are scored. An ensemble has as many
    samples as members and yields no more. A pass holds at most ``batch_tokens`` prompt tokens; where that is too much,
    it is done in halves. Texts longer than the model can read are refused.
    """
    if positions not in get_args(Positions):
        raise UnknownNameError(unknown_name("choice of positions", positions, list(get_args(Positions))))
    if samples > 1 and handle is None and expand is None:
        raise VmoerError("More than one sample needs Bayesian routers (a handle) or a noise control.")
    refuse_too_long(model.config, [text.longest for text in texts], "texts")
    if handle is not None and handle.support is not None:
        samples = min(samples, handle.support)
    items = [item for number, text in enumerate(texts) for item in _items(number, text)]
    found: list[list[tuple[list[int], OptionScores]]] = [[] for _ in texts]
    budget = batch_tokens if isinstance(batch_tokens, TokenBudget) else TokenBudget(batch_tokens)
    repeated = min(samples, 8)

    def work(batch: Sequence[_Item]) -> list[OptionScores]:
        return _score(model, batch, handle, samples, expand, positions, budget.tokens)

    done = 0
    with evaluation(model), torch.inference_mode():
        for batch in _batches(items, budget, repeated):
            for part, scored in budget.passes(batch, _prompt_tokens, work, repeated):
                for item, result in zip(part, scored, strict=True):
                    found[item.number].append((item.places, result))
            done += len(batch)
            if progress is not None:
                progress(done, len(items))
    return [_joined(parts) for parts in found]


def score_letters(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    n_options: Sequence[int],
    **arguments: Any,
) -> list[OptionScores]:
    """Log-probability of the letters A, B, C … as the token after each prompt; arguments as :func:`score_options`.

    There are 26 letters, so that is the most options.
    """
    if max(n_options, default=0) > len(ascii_uppercase):
        raise VmoerError(f"{max(n_options)} options are more than there are letters; use likelihood scoring.")
    letters = [[f" {letter}" for letter in ascii_uppercase[:n]] for n in n_options]
    scored = score_options(model, tokenizer, prompts, letters, **arguments)
    if any((result.n_tokens != 1).any() for result in scored):
        raise VmoerError("This tokenizer splits ' A' into several tokens; use likelihood scoring.")
    return scored


def _items(number: int, text: AnswerTokens) -> list[_Item]:
    """The options of a text by what stands before them, as many as may share a prompt's keys and values."""
    by_context: dict[tuple[int, ...], list[int]] = {}
    for place, context in enumerate(text.contexts):
        by_context.setdefault(tuple(context), []).append(place)
    return [
        _Item(number, places, list(context), [text.answers[place] for place in places])
        for context, all_places in by_context.items()
        for places in (all_places[first : first + _TOGETHER] for first in range(0, len(all_places), _TOGETHER))
    ]


def _joined(parts: list[tuple[list[int], OptionScores]]) -> OptionScores:
    """One result of the parts of a text, its options where they were."""
    order = np.argsort([place for places, _ in parts for place in places])
    log_likelihood = np.concatenate([scores.log_likelihood for _, scores in parts], axis=1)
    n_tokens = np.concatenate([scores.n_tokens for _, scores in parts])
    return OptionScores(log_likelihood[:, order], n_tokens[order])


def _prompt_tokens(batch: Sequence[_Item]) -> int:
    return sum(len(item.prompt) for item in batch)


def _batches(items: list[_Item], budget: TokenBudget, repeated: int) -> Iterator[list[_Item]]:
    """Questions of similar length together, so that padding stays small; each is run ``repeated`` times at once."""
    batch: list[_Item] = []
    for item in sorted(items, key=lambda item: (len(item.prompt), item.number)):
        if batch and (len(batch) + 1) * len(item.prompt) > budget.tokens // repeated:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _score(
    model: nn.Module,
    batch: Sequence[_Item],
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
        prefix = averaged_prefix(model, handle, [item.prompt for item in batch]) if positions == "scored" else None
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


def _log_likelihood(
    model: nn.Module,
    batch: Sequence[_Item],
    handle: Sampler | None,
    sample_ids: Tensor | None,
    expand: Callable[[int], AbstractContextManager[None]] | None,
    copies: int,
    prefix: Any = None,
) -> Tensor:
    """Summed log-likelihoods ``[samples, options of all questions]`` (CPU, float32).

    Rows are questions (times routing samples, sample-major). ``copies`` is how often ``expand`` makes the head answer;
    ``prefix`` the cache of :func:`~vmoer.scoring.passes.averaged_prefix`.
    """
    device = running_device(model)
    rows = len(batch)
    draws = len(sample_ids) if sample_ids is not None else 1
    flat = [option for item in batch for option in item.options]
    owner = torch.tensor([row for row, item in enumerate(batch) for _ in item.options], device=device)
    question = torch.cat([owner + rows * draw for draw in range(draws)])
    tail = max(len(option) for option in flat) - 1
    run = Passes(model, handle, sample_ids, expand, tail > 0, prefix)

    ids, mask = left_padded([item.prompt for item in batch], device)
    heads = torch.tensor([option[0] for option in flat], device=device).repeat(draws)
    total = log_probabilities_of(_unfold(run.prompt(ids, mask), copies), question, heads[:, None])[..., 0]
    if tail > 0:
        option_ids, option_mask = right_padded([option[:-1] for option in flat], tail, device)
        targets, _ = right_padded([option[1:] for option in flat], tail, device)
        logits = _unfold(run.options(option_ids, mask, option_mask, owner, question), copies)
        chosen = log_probabilities_of(logits, torch.arange(len(question), device=device), targets.repeat(draws, 1))
        total = total + (chosen * option_mask.repeat(draws, 1)).sum(-1)
    return total.reshape(copies * draws, len(flat)).cpu()


def _unfold(logits: Tensor, copies: int) -> Tensor:
    """``[copies · rows, …]`` → ``[copies, rows, …]``."""
    return logits.reshape(copies, -1, *logits.shape[1:])
