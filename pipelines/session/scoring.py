"""Scores of the options of questions under a spec: the bridge from question sets to :mod:`vmoer.scoring.options`.

Forward passes share one token budget per experiment and process: the spec's ``batch_tokens``, or on a GPU what a probe
of its memory found, at most a whole step; where it proves too large it is halved, and the job's log says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipelines.data.questions import Question
from pipelines.session.inputs import STEP_PASSES, tokens_about
from pipelines.session.model_input import tokens_of
from pipelines.session.session import Session
from vmoer.scoring.options import OptionScores, score_tokens
from vmoer.scoring.token_budget import TokenBudget, device_memory, probe


def score(session: Session, questions: Sequence[Question], samples: int = 1, **arguments: Any) -> list[OptionScores]:
    """One :class:`OptionScores` per question; ``handle`` or ``expand`` say what is sampled."""
    return _score(session, questions, token_budget(session), samples=samples, **arguments)


def token_budget(session: Session) -> TokenBudget:
    """The token budget of the experiment's forward passes in this process."""
    budget: TokenBudget = session.remember("token budget", lambda: _probed(session))
    return budget


def _probed(session: Session) -> TokenBudget:
    resident, tokens = session.resident, session.spec.batch_tokens
    most = 0
    memory = device_memory(torch.device(resident.device_name))
    if memory is not None:
        longest = max(
            session.inputs.in_distribution.questions, key=lambda question: (tokens_about(question), question.id)
        )

        def one_pass(size: int) -> None:
            budget = TokenBudget(size, tell=_refuse)
            _score(session, [longest] * max(size // tokens_about(longest), 1), budget)

        most = STEP_PASSES * tokens
        tokens = probe(one_pass, max(tokens // 8, 1), most, memory)
        session.note(f"forward passes hold {tokens} tokens, as the memory of {resident.device_name} was found to allow")
    return TokenBudget(tokens, tell=session.note, most=most)


def _refuse(sentence: str) -> None:
    """A probe wants to hear of an exhausted memory, not to work around it."""
    raise torch.OutOfMemoryError(sentence)


def _score(
    session: Session, questions: Sequence[Question], budget: TokenBudget, **arguments: Any
) -> list[OptionScores]:
    return score_tokens(
        session.resident.model,
        [tokens_of(session.spec, session.resident, question) for question in questions],
        positions=session.spec.predictive_positions,
        batch_tokens=budget,
        **arguments,
    )
