"""Tokenised prompts of an experiment, and how they are put into batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from pipelines.data.prompts import letter_prompt, likelihood_option, likelihood_prompt
from pipelines.data.questions import Question
from pipelines.model.resident import Resident
from pipelines.session.inputs import Inputs, chunks
from pipelines.spec.model import Spec
from vmoer.scoring.token_budget import TokenBudget


def prompt_of(spec: Spec, tokenizer: Any, question: Question) -> str:
    """The prompt of a question under the spec's scoring; a prompt without answers as it is."""
    if not question.answered:
        return question.question
    if spec.scoring == "likelihood":
        return likelihood_prompt(question.question)
    return letter_prompt(question.question, question.choices, tokenizer)


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
            ids = resident.tokenizer(prompt_of(inputs.spec, resident.tokenizer, question))["input_ids"]
            if answers and question.answered:
                text = likelihood_option(question.choices[question.answer])
                ids = ids + resident.tokenizer(text, add_special_tokens=False)["input_ids"]
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
