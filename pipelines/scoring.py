"""Scores of the options of questions under a spec: the bridge from question sets to :mod:`vmoer.scoring`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.context import Context
from pipelines.prompts import letter_options, likelihood_option
from pipelines.questions import Question
from pipelines.routing import prompt_of
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
    tokenizer = resident.tokenizer
    prompts = [prompt_of(context, tokenizer, question) for question in questions]
    if context.spec.scoring == "likelihood":
        options = [[likelihood_option(choice) for choice in question.choices] for question in questions]
    else:
        chat = bool(getattr(tokenizer, "chat_template", None))
        options = [letter_options(len(question.choices), chat) for question in questions]
    return score_options(
        resident.model,
        tokenizer,
        prompts,
        options,
        samples=samples,
        positions=context.spec.predictive_positions,
        batch_tokens=context.spec.batch_tokens,
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
