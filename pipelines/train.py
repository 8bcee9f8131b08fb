"""Training what a spec says: an adapter, MAP routers, Bayesian routers; question sets in, a checkpoint and its log out.

Each part is kept in a folder of its own, with its log written last: a folder with a log is complete. An interrupted
training goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines import console
from pipelines.bases import adapter_folder, map_folder
from pipelines.context import Context
from pipelines.errors import DataError, SpecError
from pipelines.models import Resident
from pipelines.prompts import likelihood_option, likelihood_prompt
from pipelines.questions import QuestionSet, load_questions
from pipelines.routing import encode_batches, router_folder
from pipelines.scoring import tuned_noise
from pipelines.settings import Settings
from pipelines.spec import DataSource, FineTuning, Spec, Training
from store.files import TEMPORARY_SUFFIX, write_text
from vmoer import bayesianize
from vmoer.adapter import adapt
from vmoer.learner import Learner, learner_of
from vmoer.map_routers import fine_tune
from vmoer.methods import has_kl
from vmoer.routers.base import routers
from vmoer.training import train
from vmoer.training_config import Example, TrainingConfig, TrainingResult, encode

Progress = Callable[[int, int, str], None]
Log = list[tuple[int, int, str, float]]

LOG = "training.json"
#: shipped checkpoints are read into float32; bfloat16 halves them
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def trainable(spec: Spec) -> list[str]:
    """The methods of a spec whose routers have parameters."""
    return [method for method in spec.methods if routers.get(method).trainable and method != "deterministic"]


def is_trained(folder: Path) -> bool:
    """Whether a folder holds a complete checkpoint with its log (the log is written last)."""
    return (folder / LOG).is_file()


def ensure_adapter(context: Context, resident: Resident, folder: Path) -> Log:
    """The log of the spec's adapter, trained into ``folder`` if it is not there yet."""
    part = context.spec.adapter
    assert part is not None
    assert part.train is not None
    if not is_trained(folder):
        resident.clear()
        resident.base.put(None, None)
        adapter = adapt(resident.model, part.rank, part.alpha, seed=part.train.data_seed)
        try:
            result = _train(context, resident, adapter.learner(), part.train, folder, context.report)
            adapter.save(folder)
        finally:
            adapter.restore()
        _close(folder, result)
    return read_log(_tidied(folder))


def ensure_map_routers(context: Context, resident: Resident, folder: Path, dtype: torch.dtype = torch.float32) -> Log:
    """The log of the spec's MAP routers, trained into ``folder`` on top of its adapter if they are not there yet."""
    part = context.spec.map_routers
    assert part is not None
    assert part.train is not None
    if not is_trained(folder):
        with resident.native(context, "pretrained") as model:
            tuned = fine_tune(model, part.layers)
            try:
                result = _train(context, resident, tuned.learner(), part.train, folder, context.report)
                tuned.save(folder, dtype)
            finally:
                tuned.restore()
        _close(folder, result)
    return read_log(_tidied(folder))


def train_method(
    context: Context,
    resident: Resident,
    method: str,
    folder: Path,
    progress: Progress,
    dtype: str = "float32",
    control: str = "none",
) -> Log:
    """Train one method into ``folder`` and return its log; ``control="beta-zero"`` leaves the KL out."""
    if not is_trained(folder):
        part = context.spec.routers.train
        if part is None:
            raise SpecError("routers: to train them, give {train: {data: …, validation: …}}")
        if control == "beta-zero":
            part = part.model_copy(update={"beta": 0.0})
        options: dict[str, Any] = dict(context.spec.options.get(method, {}))
        layers = resident.layers_of(context, method)
        with (
            resident.native(context) as model,
            bayesianize(
                model,
                method=method,
                layers=layers,
                samples=context.spec.samples,
                seed=part.sampling_seed,
                calibration=encode_batches(context, resident, limit=32),
                **options,
            ) as handle,
        ):
            result = _train(context, resident, learner_of(handle), part, folder, progress)
            if part.tune_noise:
                result.log += tuned_noise(context, resident, handle, _questions(context, part.validation))
            handle.save(folder, dtype=DTYPES[dtype])
        _close(folder, result)
    return read_log(_tidied(folder))


def train_all(
    spec: Spec, folders: Sequence[str], settings: Settings, output: Path, dtype: str, quiet: bool = False
) -> list[dict[str, Any]]:
    """Train everything a spec trains into ``output/adapter``, ``output/map``, ``output/<method>``; one row each."""
    context = Context(spec, folders, settings)
    context.output = output
    rows = []
    for name, work in _parts(context, dtype):
        with console.JobProgress(quiet) as bars:

            def progress(done: int, total: int, message: str, name: str = name, bars: Any = bars) -> None:
                counts = {"done": done, "total": total, "stage_done": done, "stage_total": total}
                bars(name, {"stage": "train", "message": f"{name}, {message}", **counts})

            context.report = progress
            log = work()
        validation = [value for _, _, quantity, value in log if quantity == "validation_nll"]
        rows.append(
            {
                "part": name,
                "validation_nll_before": validation[0],
                "validation_nll_best": min(validation),
                "steps": max(step for step, *_ in log),
                "output": str(output / name),
            }
        )
    return rows


def _parts(context: Context, dtype: str) -> list[tuple[str, Callable[[], Log]]]:
    """What a spec trains, in order."""
    spec, resident = context.spec, context.resident
    parts: list[tuple[str, Callable[[], Log]]] = []
    adapter, tuned = adapter_folder(context), map_folder(context)
    if adapter is not None and spec.adapter is not None and spec.adapter.train is not None:
        parts.append(("adapter", lambda: ensure_adapter(context, resident, adapter)))
    if tuned is not None and spec.map_routers is not None and spec.map_routers.train is not None:
        parts.append(("map", lambda: ensure_map_routers(context, resident, tuned, DTYPES[dtype])))
    for method, control, folder in _heads(context):

        def work(method: str = method, folder: Path = folder, control: str = control) -> Log:
            return train_method(context, resident, method, folder, context.report, dtype, control)

        parts.append((folder.name, work))
    if not parts:
        raise SpecError("nothing to train: give {train: {data: …, validation: …}} to adapter, map_routers or routers")
    return parts


def _heads(context: Context) -> Iterator[tuple[str, str, Path]]:
    """``(method, control, folder)`` of every Bayesian part that a spec trains."""
    if context.spec.routers.train is None:
        return
    for method in trainable(context.spec):
        free = "beta-zero" in context.spec.controls and has_kl(method)
        for control in ("none", "beta-zero") if free else ("none",):
            folder = router_folder(context, method, control)
            assert folder is not None
            yield method, control, folder


def missing_parts(context: Context) -> dict[Path, FineTuning]:
    """How the parts that a spec trains, and that are not there yet, will be trained; by folder."""
    spec = context.spec
    below = ((adapter_folder(context), spec.adapter), (map_folder(context), spec.map_routers))
    found = {folder: part.train for folder, part in below if folder is not None and part is not None and part.train}
    if spec.routers.train is not None:
        found |= {folder: spec.routers.train for _, _, folder in _heads(context)}
    return {folder: part for folder, part in found.items() if not is_trained(folder)}


def read_log(folder: Path) -> Log:
    """The training log beside a checkpoint."""
    rows = json.loads((folder / LOG).read_text(encoding="utf-8"))["log"]
    return [(int(step), int(layer), str(quantity), float(value)) for step, layer, quantity, value in rows]


def _train(
    context: Context, resident: Resident, learner: Learner, part: FineTuning, folder: Path, progress: Progress
) -> TrainingResult:
    sets = [_questions(context, source) for source in (part.data, part.validation)]
    examples, validation = (_encoded(resident, found, part.loss == "choice") for found in sets)
    values = part.model_dump(exclude={"data", "validation", "tune_noise"})
    if not isinstance(part, Training):
        values["sampling_seed"] = part.data_seed
    return train(learner, examples, validation, TrainingConfig(**values), folder=folder / "state", progress=progress)


def _close(folder: Path, result: TrainingResult) -> None:
    """Write the log, which makes the folder complete."""
    write_text(folder / LOG, json.dumps({"best_step": result.best_step, "log": result.log}) + "\n")


def _tidied(folder: Path) -> Path:
    """A complete folder without what a training killed in the last moment may have left: its state, half a log."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    for left in folder.glob(f".{LOG}.*{TEMPORARY_SUFFIX}"):
        left.unlink(missing_ok=True)
    return folder


def _questions(context: Context, source: DataSource) -> QuestionSet:
    found = load_questions(source, "validation", context.folders, context.settings)
    _refuse_overlap(found, context.sets)
    return found


def _encoded(resident: Resident, found: QuestionSet, choice: bool) -> list[Example]:
    prompts = [likelihood_prompt(question.question) for question in found.questions]
    answers = [likelihood_option(question.choices[question.answer]) for question in found.questions]
    wrong = None
    if choice:
        wrong = [
            [likelihood_option(text) for place, text in enumerate(question.choices) if place != question.answer]
            for question in found.questions
        ]
    return encode(resident.tokenizer, prompts, answers, wrong)


def _refuse_overlap(found: QuestionSet, sets: Sequence[QuestionSet]) -> None:
    """Training on a question that is evaluated later would make every figure a lie."""
    texts = {(question.question, question.choices) for question in found.questions}
    for other in sets:
        shared = sum((question.question, question.choices) in texts for question in other.questions)
        if shared and other.role != "validation":
            raise DataError(
                f"training uses {shared} questions of {other.name!r}, which this experiment evaluates; "
                "train on a split of its own"
            )
