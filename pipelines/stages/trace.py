"""Every routing decision on the prompts: tables ``examples``, ``tokens`` and ``routing``.

A run with the ``predictive`` estimator is traced under routing sample 0. A noise control routes like the base, so
it has no trace of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import vmoer
from pipelines.session.batching import by_size, padded
from pipelines.session.inputs import steps
from pipelines.session.model_input import prompt_of, tokens_of
from pipelines.session.scoring import token_budget
from pipelines.session.session import Session
from pipelines.spec.runs import RunPlan
from pipelines.stages import Batch, Columns
from pipelines.stages.examples import example_columns
from vmoer.forward.modes import evaluation

TABLES = ("examples", "tokens", "routing")


def applies(run: RunPlan) -> bool:
    return not run.noisy


def plan(session: Session, run: RunPlan) -> list[Batch]:
    return [
        Batch(f"{item.name}/{first}", tokens, {"dataset": item.name, "first": first, "last": last})
        for item in session.inputs.sets
        for first, last, tokens in steps(item.questions, session.spec)
    ]


def compute(session: Session, run: RunPlan, batch: Batch) -> Mapping[str, Columns]:
    resident = session.resident
    item = session.inputs.questions(batch.payload["dataset"])
    questions = item.questions[batch.payload["first"] : batch.payload["last"]]
    session.apply(run)
    prompts = [prompt_of(session.spec, resident.tokenizer, question) for question in questions]
    rows = [tokens_of(session.spec, resident, question).prompt for question in questions]
    budget = token_budget(session)
    order: list[int] = []
    with evaluation(resident.model), torch.inference_mode(), vmoer.record(resident.model) as recorder:

        def forward(places: Sequence[int]) -> None:
            with recorder.attempt():
                resident.model(**padded([rows[place] for place in places], resident.device_name), logits_to_keep=1)

        for part in by_size(rows, budget):
            for places, _ in budget.passes(part, lambda places: sum(len(rows[place]) for place in places), forward):
                order += places
    trace = recorder.trace
    store_text = session.spec.store_text
    ids = np.array([question.id for question in questions], dtype=object)
    token_example = ids[np.array(order)[trace.example]]
    decisions = trace.decisions()
    owner = decisions.pop("token")
    return {
        "examples": example_columns(item, questions, prompts, [len(row) for row in rows], store_text),
        "tokens": {
            "dataset": item.name,
            "example_id": token_example,
            "position": trace.position,
            "token_id": trace.token_id,
            "token": _texts(resident.tokenizer, trace.token_id) if store_text else None,
            "phase": np.where(trace.decode, "decode", "prefill"),
        },
        "routing": {
            "dataset": item.name,
            "example_id": token_example[owner],
            "position": trace.position[owner],
            **decisions,
        },
    }


def summarise(session: Session, run: RunPlan) -> Mapping[str, Columns]:
    return {}


def _texts(tokenizer: Any, token_ids: Any) -> list[str]:
    """Each token as text of its own; bytes that are no character become U+FFFD."""
    seen = {int(token): tokenizer.decode([int(token)]) for token in np.unique(token_ids)}
    return [seen[int(token)] for token in token_ids]
