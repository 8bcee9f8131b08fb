"""Training the routers of a spec: question sets in, a checkpoint and its training log out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines import console
from pipelines.context import Context
from pipelines.errors import DataError, SpecError
from pipelines.models import Resident
from pipelines.prompts import likelihood_option, likelihood_prompt
from pipelines.questions import QuestionSet, load_questions
from pipelines.routing import encode_batches
from pipelines.settings import Settings
from pipelines.spec import DataSource, Spec
from store.files import write_text
from vmoer import bayesianize
from vmoer.routers.base import routers
from vmoer.training import Example, TrainingConfig, encode, train

Progress = Callable[[int, int, str], None]

LOG = "training.json"
#: shipped checkpoints are read into float32; bfloat16 halves them
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def trainable(spec: Spec) -> list[str]:
    """The methods of a spec whose routers have parameters."""
    return [method for method in spec.methods if routers.get(method).trainable and method != "deterministic"]


def is_trained(folder: Path) -> bool:
    """Whether a folder holds a complete checkpoint with its log (the log is written last)."""
    return (folder / LOG).is_file()


def train_method(
    context: Context, resident: Resident, method: str, folder: Path, progress: Progress, dtype: str = "float32"
) -> list[tuple[int, int, str, float]]:
    """Train one method into ``folder`` and return its log; an interrupted training goes on where it stopped."""
    if not is_trained(folder):
        settings = context.spec.routers.train
        if settings is None:
            raise SpecError("routers: to train them, give {train: {data: …, validation: …}}")
        examples, validation = (_examples(context, resident, source) for source in (settings.data, settings.validation))
        options: dict[str, Any] = dict(context.spec.options.get(method, {}))
        with (
            resident.native() as model,
            bayesianize(
                model,
                method=method,
                layers=resident.layers_of(context, method),
                samples=context.spec.samples,
                seed=context.spec.seed,
                calibration=encode_batches(context, resident, limit=32),
                **options,
            ) as handle,
        ):
            values = settings.model_dump(exclude={"data", "validation"})
            config = TrainingConfig(**values, data_seed=context.spec.seed, sampling_seed=context.spec.seed)
            result = train(handle, examples, validation, config, folder=_state(folder), progress=progress)
            handle.save(folder, dtype=DTYPES[dtype])
        write_text(folder / LOG, json.dumps({"best_step": result.best_step, "log": result.log}) + "\n")
        for path in _state(folder).iterdir():
            path.unlink()
        _state(folder).rmdir()
    log = json.loads((folder / LOG).read_text(encoding="utf-8"))["log"]
    return [(int(step), int(layer), str(quantity), float(value)) for step, layer, quantity, value in log]


def train_routers(
    spec: Spec, folders: Sequence[str], settings: Settings, output: Path, dtype: str, quiet: bool = False
) -> list[dict[str, Any]]:
    """Train every method of a spec into ``output/<method>``; one row per method."""
    if spec.routers.train is None:
        raise SpecError("routers: to train them, give {train: {data: …, validation: …}}")
    context = Context(spec, folders, settings)
    rows = []
    for method in trainable(spec):
        with console.JobProgress(quiet) as bars:

            def progress(done: int, total: int, message: str, method: str = method, bars: Any = bars) -> None:
                counts = {"done": done, "total": total, "stage_done": done, "stage_total": total}
                bars(method, {"stage": "train", "message": f"{method}, {message}", **counts})

            log = train_method(context, context.resident, method, output / method, progress, dtype)
        validation = [value for _, _, quantity, value in log if quantity == "validation_nll"]
        rows.append(
            {
                "method": method,
                "layers": context.resident.layers_of(context, method),
                "validation_nll_before": validation[0],
                "validation_nll_best": min(validation),
                "steps": max(step for step, *_ in log),
                "output": str(output / method),
            }
        )
    return rows


def _examples(context: Context, resident: Resident, source: DataSource) -> list[Example]:
    found = load_questions(source, "validation", context.folders, context.settings)
    _refuse_overlap(found, context.sets)
    prompts = [likelihood_prompt(question.question) for question in found.questions]
    answers = [likelihood_option(question.choices[question.answer]) for question in found.questions]
    return encode(resident.tokenizer, prompts, answers)


def _refuse_overlap(found: QuestionSet, sets: Sequence[QuestionSet]) -> None:
    """Training on a question that is evaluated later would make every figure a lie."""
    texts = {(question.question, question.choices) for question in found.questions}
    for other in sets:
        shared = sum((question.question, question.choices) in texts for question in other.questions)
        if shared and other.role != "validation":
            raise DataError(
                f"routers.train uses {shared} questions of {other.name!r}, which this experiment evaluates; "
                "train on a split of its own"
            )


def _state(folder: Path) -> Path:
    return folder / "state"
