"""Scores of the options of questions under a spec: the bridge from question sets to :mod:`vmoer.scoring`.

Forward passes share one token budget per experiment and process: the spec's ``batch_tokens``, or on a GPU what a probe
of its memory found, at most a whole step; where it proves too large it is halved, and the job's log says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.context import STEP_PASSES, Context, tokens_about
from pipelines.prompts import letter_options, likelihood_option
from pipelines.questions import Question
from pipelines.routing import prompt_of
from vmoer.memory import TokenBudget, device_memory, probe
from vmoer.scoring import Normalise, OptionScores, score_options

if TYPE_CHECKING:
    from pipelines.models import Resident
    from pipelines.questions import QuestionSet
    from vmoer.handle import Handle

#: multiples of the trained σ that are tried on the validation set
NOISE_GRID = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


def score(
    context: Context, resident: Resident, questions: Sequence[Question], samples: int = 1, **arguments: Any
) -> list[OptionScores]:
    """One :class:`OptionScores` per question; ``handle`` or ``expand`` say what is sampled."""
    return _score(context, resident, questions, token_budget(context), samples=samples, **arguments)


def answer_texts(context: Context, tokenizer: Any, question: Question) -> list[str]:
    """What is scored behind a question's prompt, one text per option: its words, or its letter."""
    if context.spec.scoring == "likelihood":
        return [likelihood_option(choice) for choice in question.choices]
    return letter_options(len(question.choices), bool(getattr(tokenizer, "chat_template", None)))


def token_budget(context: Context) -> TokenBudget:
    """The token budget of the experiment's forward passes in this process."""
    budget: TokenBudget = context.remember("token budget", lambda: _probed(context))
    return budget


def _probed(context: Context) -> TokenBudget:
    resident, tokens = context.resident, context.spec.batch_tokens
    most = 0
    memory = device_memory(torch.device(resident.device_name))
    if memory is not None:
        longest = max(context.in_distribution.questions, key=lambda question: (tokens_about(question), question.id))

        def one_pass(size: int) -> None:
            budget = TokenBudget(size, tell=_refuse)
            _score(context, resident, [longest] * max(size // tokens_about(longest), 1), budget)

        most = STEP_PASSES * tokens
        tokens = probe(one_pass, max(tokens // 8, 1), most, memory)
        context.note(f"forward passes hold {tokens} tokens, as the memory of {resident.device_name} was found to allow")
    return TokenBudget(tokens, tell=context.note, most=most)


def _refuse(sentence: str) -> None:
    """A probe wants to hear of an exhausted memory, not to work around it."""
    raise torch.OutOfMemoryError(sentence)


def _score(
    context: Context, resident: Resident, questions: Sequence[Question], budget: TokenBudget, **arguments: Any
) -> list[OptionScores]:
    tokenizer = resident.tokenizer
    prompts = [prompt_of(context, tokenizer, question) for question in questions]
    options = [answer_texts(context, tokenizer, question) for question in questions]
    return score_options(
        resident.model,
        tokenizer,
        prompts,
        options,
        positions=context.spec.predictive_positions,
        batch_tokens=budget,
        **arguments,
    )


def tuned_noise(
    context: Context, resident: Resident, handle: Handle, found: QuestionSet
) -> list[tuple[int, int, str, float]]:
    """Set the handle's σ to the multiple with the lowest validation NLL of the averaged answers; returns log rows.

    The step of a row is its place in :data:`NOISE_GRID`.
    """
    rows: list[tuple[int, int, str, float]] = []
    nlls = []
    for place, factor in enumerate(NOISE_GRID):
        handle.scale_noise(factor)
        scored = score(context, resident, found.questions, handle=handle, samples=context.spec.answer_samples)
        normalise: Normalise = "mean" if context.spec.normalise else "sum"
        right = [
            float(options.probabilities(normalise).mean(0)[question.answer])
            for options, question in zip(scored, found.questions, strict=True)
        ]
        nlls.append(-float(np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean()))
        rows += [(place, -1, "noise_scale", factor), (place, -1, "noise_nll", nlls[-1])]
    handle.scale_noise(NOISE_GRID[int(np.argmin(nlls))])
    return rows
