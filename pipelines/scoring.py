"""Scores of the options of questions under a spec: the bridge from question sets to :mod:`vmoer.scoring`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.context import Context
from pipelines.prompts import letter_options, likelihood_option
from pipelines.questions import Question
from pipelines.routing import prompt_of
from vmoer.scoring import OptionScores, score_options

if TYPE_CHECKING:
    from pipelines.models import Resident


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
        batch_tokens=context.spec.batch_tokens,
        **arguments,
    )
