"""The command `vmoer noise-floor`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipelines.cli.root import Device, Json
from pipelines.console import print_rows
from pipelines.data.prompts import likelihood_prompt
from pipelines.data.questions import load_questions
from pipelines.model.resident import load
from pipelines.session.batching import by_size, padded
from pipelines.spec.sections import DataSource
from pipelines.stages.susceptibility import floor_rows
from vmoer.measure import noise_floor
from vmoer.metrics.bootstrap import N_RESAMPLES
from vmoer.models.context_limit import refuse_too_long
from vmoer.scoring.answer_tokens import prompt_tokens
from vmoer.scoring.token_budget import TokenBudget

_BATCH_TOKENS = 4096


def command(
    model: Annotated[str, typer.Argument(help="A model's name, a folder or a hub id.")],
    prompts: Annotated[
        str | None, typer.Option(help="File of prompts or question set; the built-in questions if left out.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Prompts to measure on.")] = 64,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """How often bfloat16, or another expert kernel, changes the experts that float32 picks, per layer.

    An instability no larger than this says nothing about the router. The model is copied once in float32.
    """
    print_rows(noise_floor_rows(model, prompts, limit, device), json_, "no MoE layers")


def noise_floor_rows(model: str, prompts: str | None, limit: int, device: str) -> list[dict[str, Any]]:
    """Rows as in table ``noise_floor`` for a model by name, folder or hub id, which is copied once in float32.

    ``prompts`` is a file of prompts or a question set, the built-in questions when it is ``None``.
    """
    where: dict[str, Any] = {"path": prompts} if prompts else {"name": "worldfacts", "split": "test"}
    questions = load_questions(DataSource(**where, limit=limit)).questions
    texts = [likelihood_prompt(item.question) if item.answered else item.question for item in questions]
    native, tokenizer = load(model, device=None if device == "auto" else device, build=True)
    rows = [prompt_tokens(tokenizer, text) for text in texts]
    refuse_too_long(native.config, [len(row) for row in rows], "prompts")
    groups = by_size(rows, TokenBudget(_BATCH_TOKENS))
    batches = [padded([rows[place] for place in group], str(native.device)) for group in groups]
    return floor_rows(noise_floor.measure(native, batches), N_RESAMPLES, 0)
