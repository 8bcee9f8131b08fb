"""Training what a spec says: an adapter, MAP routers, Bayesian routers; question sets in, a checkpoint and its log out.

Each part is kept in a folder of its own, with its log written last: a folder with a log is complete. An interrupted
training goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.data.prompts import likelihood_option, likelihood_prompt
from pipelines.data.questions import QuestionSet, load_questions
from pipelines.errors import DataError, SpecError
from pipelines.preparation.controls import tuned_noise
from pipelines.session.batching import encode_batches
from pipelines.session.checkpoints import router_folder
from pipelines.session.inputs import Inputs
from pipelines.session.model_input import check_lengths
from pipelines.session.session import Session
from pipelines.spec.model import Spec
from pipelines.spec.sections import DataSource, FineTuning, Training
from store import signatures
from store.files import TEMPORARY_SUFFIX, write_text
from vmoer import bayesianize
from vmoer.errors import CheckpointError
from vmoer.methods import has_kl
from vmoer.models.context_limit import context_limit
from vmoer.routers.base import routers
from vmoer.training.adapter import adapt
from vmoer.training.config import Example, TrainingConfig, TrainingResult, encode
from vmoer.training.learner import Learner, learner_of
from vmoer.training.loop import train
from vmoer.training.map_routers import fine_tune

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


def ensure_base(session: Session, base: str) -> None:
    """Train what is missing of a base: the adapter, and the MAP routers when the base is ``map``."""
    spec = session.spec
    if base != "unadapted" and spec.adapter is not None and spec.adapter.train is not None:
        ensure_adapter(session)
    if base == "map" and spec.map_routers is not None and spec.map_routers.train is not None:
        ensure_map_routers(session)


def ensure_method(session: Session, method: str, control: str) -> None:
    """Train a method's routers if the spec trains them and they are missing."""
    if session.spec.routers.train is not None and router_folder(session.inputs, method, control) is not None:
        train_method(session, method, control)


def ensure_adapter(session: Session) -> Log:
    """Return the log of the spec's adapter, which is trained first if it is missing."""
    part, folder = session.spec.adapter, session.inputs.parts.adapter()
    assert part is not None
    assert part.train is not None
    assert folder is not None
    if not is_trained(folder):
        with session.native("unadapted") as model:
            adapter = adapt(model, part.rank, part.alpha, seed=part.train.data_seed)
            try:
                result = _train(session, adapter.learner(), part.train, folder)
                adapter.save(folder)
            finally:
                adapter.restore()
        _close(folder, result)
    return read_log(_tidied(folder))


def ensure_map_routers(session: Session, dtype: torch.dtype = torch.float32) -> Log:
    """Return the log of the spec's MAP routers, trained first on top of its adapter if they are missing."""
    part, folder = session.spec.map_routers, session.inputs.parts.map_routers()
    assert part is not None
    assert part.train is not None
    assert folder is not None
    if not is_trained(folder):
        ensure_base(session, "pretrained")
        with session.native("pretrained") as model:
            tuned = fine_tune(model, part.layers)
            try:
                result = _train(session, tuned.learner(), part.train, folder)
                tuned.save(folder, dtype)
            finally:
                tuned.restore()
        _close(folder, result)
    return read_log(_tidied(folder))


def train_method(session: Session, method: str, control: str = "none", dtype: str = "float32") -> Log:
    """Return the log of one method's routers, trained first if missing; control ``beta-zero`` leaves the KL out."""
    folder = router_folder(session.inputs, method, control)
    assert folder is not None
    if not is_trained(folder):
        spec, part = session.spec, session.spec.routers.train
        if part is None:
            raise SpecError("routers: to train them, give {train: {data: …, validation: …}}")
        if control == "beta-zero":
            part = part.model_copy(update={"beta": 0.0})
        options: dict[str, Any] = dict(spec.options.get(method, {}))
        ensure_base(session, spec.base)
        with (
            session.native() as model,
            bayesianize(
                model,
                method=method,
                layers=session.layers_of(method),
                samples=spec.samples,
                seed=part.sampling_seed,
                calibration=encode_batches(session.inputs, session.resident, limit=32),
                **options,
            ) as handle,
        ):
            result = _train(session, learner_of(handle), part, folder)
            if part.tune_noise:
                result.log += tuned_noise(session, handle, _questions(session.inputs, part.validation))
            handle.save(folder, dtype=DTYPES[dtype])
        _close(folder, result)
    return read_log(_tidied(folder))


def methods_trained(inputs: Inputs) -> Iterator[tuple[str, str, Path]]:
    """``(method, control, folder)`` of every Bayesian part that a spec trains."""
    if inputs.spec.routers.train is None:
        return
    for method in trainable(inputs.spec):
        free = "beta-zero" in inputs.spec.controls and has_kl(method)
        for control in ("none", "beta-zero") if free else ("none",):
            folder = router_folder(inputs, method, control)
            assert folder is not None
            yield method, control, folder


def missing_parts(inputs: Inputs) -> dict[Path, FineTuning]:
    """How the parts that a spec trains, and that are not there yet, will be trained; by folder."""
    spec = inputs.spec
    below = ((inputs.parts.adapter(), spec.adapter), (inputs.parts.map_routers(), spec.map_routers))
    found = {folder: part.train for folder, part in below if folder is not None and part is not None and part.train}
    if spec.routers.train is not None:
        found |= {folder: spec.routers.train for _, _, folder in methods_trained(inputs)}
    return {folder: part for folder, part in found.items() if not is_trained(folder)}


def read_log(folder: Path) -> Log:
    """The training log beside a checkpoint; its last row says which step's weights were kept."""
    stored = json.loads((folder / LOG).read_text(encoding="utf-8"))
    if not signatures.intact(stored) or stored.keys() - {"best_step", "log", signatures.KEY}:
        raise CheckpointError(f"{folder.name}/{LOG} is not as it was written: its SHA-256 differs.")
    kept = int(stored["best_step"])
    rows = [(int(step), int(layer), str(quantity), float(value)) for step, layer, quantity, value in stored["log"]]
    return [*rows, (kept, -1, "kept_step", float(kept))]


def kept_step_of(folder: Path) -> int | None:
    """Return the step whose weights a checkpoint holds, as the log beside it says; ``None`` without a log."""
    return int(read_log(folder)[-1][3]) if is_trained(folder) else None


def _train(session: Session, learner: Learner, part: FineTuning, folder: Path) -> TrainingResult:
    sets = [_questions(session.inputs, source) for source in (part.data, part.validation)]
    examples, validation = (_encoded(session, found, part.loss == "choice") for found in sets)
    values = part.model_dump(exclude={"data", "validation", "tune_noise"})
    if not isinstance(part, Training):
        values["sampling_seed"] = part.data_seed
    return train(
        learner, examples, validation, TrainingConfig(**values), folder=folder / "state", progress=session.report
    )


def _close(folder: Path, result: TrainingResult) -> None:
    """Write the log, which makes the folder complete."""
    values = {"best_step": result.best_step, "log": [list(row) for row in result.log]}
    write_text(folder / LOG, json.dumps(signatures.signed(values)) + "\n")


def _tidied(folder: Path) -> Path:
    """A complete folder without what a training killed in the last moment may have left: its state, half a log."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    for left in folder.glob(f".{LOG}.*{TEMPORARY_SUFFIX}"):
        left.unlink(missing_ok=True)
    return folder


def _questions(inputs: Inputs, source: DataSource) -> QuestionSet:
    found = load_questions(source, "validation", inputs.folders, inputs.settings)
    _refuse_overlap(found, inputs.sets)
    return found


def _encoded(session: Session, found: QuestionSet, choice: bool) -> list[Example]:
    prompts = [likelihood_prompt(question.question) for question in found.questions]
    answers = [likelihood_option(question.choices[question.answer]) for question in found.questions]
    wrong = None
    if choice:
        wrong = [
            [likelihood_option(text) for place, text in enumerate(question.choices) if place != question.answer]
            for question in found.questions
        ]
    resident, spec = session.resident, session.spec
    examples = encode(resident.tokenizer, prompts, answers, wrong)
    most = context_limit(resident.model.config)
    names = [question.id for question in found.questions]
    lengths = list(zip(names, (example.longest for example in examples), strict=True))
    cut = check_lengths(lengths, most, spec.truncate, found.source, spec.model)
    if cut:
        session.note(f"{found.source}: {len(cut)} training texts without the first tokens of their prompts")
        examples = encode(resident.tokenizer, prompts, answers, wrong, most)
    return examples


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
