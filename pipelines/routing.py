"""Which router weights and which layers a method of an experiment uses, and tokenised prompts to measure them on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipelines.context import Context, chunks
from pipelines.errors import SpecError
from pipelines.prompts import letter_prompt, likelihood_option, likelihood_prompt
from pipelines.questions import Question
from pipelines.shipped import is_shipped, shipped_part
from pipelines.spec import resolve_path
from store.layout import contained
from vmoer.attach import choose_layers
from vmoer.errors import CheckpointError
from vmoer.layers import MEASURED, describe, parse
from vmoer.memory import TokenBudget
from vmoer.routers.base import routers

if TYPE_CHECKING:
    from pipelines.models import Resident

_LAYERS_DEFAULT = "all"


def prompt_of(context: Context, tokenizer: Any, question: Question) -> str:
    """The prompt of a question under the spec's scoring; a prompt without answers as it is."""
    if not question.answered:
        return question.question
    if context.spec.scoring == "likelihood":
        return likelihood_prompt(question.question)
    return letter_prompt(question.question, question.choices, tokenizer)


def encode_batches(
    context: Context, resident: Resident, limit: int, dataset: str | None = None, answers: bool = False
) -> list[dict[str, torch.Tensor]]:
    """Prompts of the first ``limit`` questions as padded batches; with ``answers``, the right answer follows each."""
    source = context.calibration if dataset is None else context.questions(dataset)
    questions = source.questions[:limit]
    batches = []
    for first, last, _ in chunks(questions, context.spec.batch_tokens):
        rows = []
        for question in questions[first:last]:
            ids = resident.tokenizer(prompt_of(context, resident.tokenizer, question))["input_ids"]
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


def router_folder(context: Context, method: str, control: str = "none") -> Path | None:
    """The checkpoint a method's routers come from; ``None`` for methods without parameters and untrained heads."""
    if not routers.get(method).trainable or context.spec.routers.source == "untrained":
        return None
    name = f"{method}.beta-zero" if control == "beta-zero" else method
    if context.spec.routers.train is not None:
        return part_folder(context, name)
    source = str(context.spec.routers.source)
    if is_shipped(source):
        shipped = shipped_part(context.spec.model, source, name)
        if shipped is None:
            raise SpecError(
                f"routers: none are {source} for {name} on {context.spec.model}; give a folder, `untrained`, "
                "or {train: {data: …}}"
            )
        return shipped
    folder = resolve_path(source, context.folders)
    nested = folder / name
    return nested if (nested / "routers.json").is_file() or control == "beta-zero" else folder


def part_folder(context: Context, name: str) -> Path:
    """Where something a spec trains is kept: under a hash of what decides its weights, so that experiments share it.

    ``name`` is ``adapter``, ``map``, a method, or a method with ``.beta-zero``.
    """
    if context.output is not None:
        return context.output / name
    spec = context.spec.canonical()
    parts: dict[str, Any] = {"model": spec["model"], "dtype": spec["dtype"], "adapter": spec["adapter"], "name": name}
    if name != "adapter":
        parts |= {"map": spec["map_routers"] if name == "map" or spec["base"] == "map" else None}
    if name not in ("adapter", "map"):
        method = name.removesuffix(".beta-zero")
        measured_on = spec["data"]["validation"] or spec["data"]["id"]
        parts |= {key: spec[key] for key in ("base", "layers", "samples", "routers")}
        parts |= {"options": spec["options"].get(method, {}), "measured_on": measured_on}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return contained(context.home, context.home / "routers" / f"{digest}.{name}")


def resolve_layers(context: Context, resident: Resident, method: str) -> list[int]:
    """Absolute layers of a method's routers; a checkpoint for other layers than the spec asks for is refused."""
    wanted = context.spec.layers
    folder = router_folder(context, method)
    trains = context.spec.routers.train is not None
    if folder is None or trains:
        selection = _LAYERS_DEFAULT if wanted is None else wanted
        measured = parse(selection)[0] in MEASURED
        calibration = encode_batches(context, resident, limit=32, answers=True) if measured else None
        with resident.native(context) as model:
            return choose_layers(model, selection, calibration)
    try:
        saved = [int(layer) for layer in json.loads((folder / "routers.json").read_text(encoding="utf-8"))["layers"]]
    except FileNotFoundError:
        raise CheckpointError(f"No router checkpoint in {folder.name}: routers.json is missing.") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder.name}/routers.json is not a router checkpoint.") from None
    if wanted is None or parse(wanted)[0] in MEASURED:
        return saved  # a measured choice was made when the routers were trained
    with resident.native(context) as model:
        asked = choose_layers(model, wanted, None)
    if asked != saved:
        raise SpecError(
            f"layers: the {method} routers were trained for layers {describe(saved)}, the spec asks for "
            f"{describe(asked)}; leave `layers` out to use theirs"
        )
    return saved
