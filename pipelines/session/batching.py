"""Tokenised prompts of an experiment, and how they are put into batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pipelines.model.resident import Resident
from pipelines.session.inputs import Inputs, chunks
from pipelines.session.model_input import tokens_of
from vmoer.scoring.token_budget import TokenBudget


def encode_batches(
    inputs: Inputs, resident: Resident, limit: int, dataset: str | None = None, answers: bool = False
) -> list[dict[str, torch.Tensor]]:
    """Prompts of the first ``limit`` questions as padded batches; with ``answers``, the right answer follows each."""
    source = inputs.calibration if dataset is None else inputs.questions(dataset)
    questions = source.questions[:limit]
    batches = []
    for first, last, _ in chunks(questions, inputs.spec.batch_tokens):
        rows = []
        for question in questions[first:last]:
            tokens = tokens_of(inputs.spec, resident, question)
            ids = tokens.prompt
            if answers and question.answered:
                ids = tokens.contexts[question.answer] + tokens.answers[question.answer]
            rows.append(ids)
        batches.append(padded(rows, resident.device_name))
    return batches


def padded(rows: list[list[int]], device: str) -> dict[str, torch.Tensor]:
    """Token ids padded on the right, with their mask: both ``[rows, longest]``."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}


def by_size(rows: list[list[int]], budget: TokenBudget) -> Iterator[list[int]]:
    """Places of rows in groups of similar length; a group's padded size is within the budget, or it is one row."""
    group: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: (len(rows[place]), place)):
        if group and (len(group) + 1) * len(rows[place]) > budget.tokens:
            yield group
            group = []
        group.append(place)
    if group:
        yield group
