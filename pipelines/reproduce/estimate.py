"""What a suite will cost on this machine, before it is started: time from a measured sample, memory, disk."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.prompts import likelihood_option, likelihood_prompt
from pipelines.data.questions import load_questions
from pipelines.preparation.controls import NOISE_GRID
from pipelines.preparation.train import missing_parts
from pipelines.reproduce.suite import Planned, count_questions
from pipelines.session.inputs import Inputs, tokens_about
from pipelines.session.scoring import score
from pipelines.session.session import Session
from pipelines.settings import Settings
from pipelines.spec.runs import expand
from pipelines.spec.sections import FineTuning, Training
from vmoer.scoring.likelihood import log_likelihood
from vmoer.training.config import encode
from vmoer.training.map_routers import fine_tune

_SAMPLE = 8
#: a traced question also runs its prompt once more, and writes about this many bytes per token and MoE layer
_TRACE_BYTES = 60
_TOKENS = 40
#: passes over all options that a training step on one question costs, by what its loss sees, with the backward pass
_STEP = {"answer": 2.2, "choice": 3.0}


@dataclass(frozen=True)
class Estimate:
    """``seconds`` of computing, of them ``training``; ``memory`` and ``disk`` in bytes; from ``sample`` questions
    answered just now.
    """

    runs: int
    answers: int
    seconds: float
    training: float
    memory: int
    disk: int
    free: int
    sample: int

    def sentence(self) -> str:
        """The estimate in words."""
        return (
            f"{self.runs} runs, {self.answers} answers: about {self.seconds / 60:.0f} minutes of computing on this "
            f"machine, {self.training / 60:.0f} of them training (from {self.sample} questions answered just now), "
            f"about {self.memory / 2**30:.1f} GiB of memory, {self.disk / 2**20:.0f} MiB of disk "
            f"({self.free / 2**30:.0f} GiB free)"
        )


def estimate(planned: Sequence[Planned], folders: Sequence[str], settings: Settings) -> Estimate:
    """Answer a few questions of the first spec and scale up."""
    session = Session(Inputs(planned[0].spec, folders, settings))
    questions = session.inputs.in_distribution.questions[:_SAMPLE]
    with session.resident.native():
        loaded = _peak()
        score(session, questions[:2])
        start = time.perf_counter()
        score(session, questions)
        each = (time.perf_counter() - start) / len(questions)
        at_once = max(session.spec.batch_tokens * len(questions) // sum(map(tokens_about, questions)), len(questions))
        memory = loaded + (_peak() - loaded) * at_once // len(questions)
        for part in _largest(planned, folders, settings):
            _learn(session, part)
            memory = max(memory, _peak())
    answers = count_questions(list(planned), list(folders), settings)
    traced = sum("trace" in item.spec.stages for item in planned) / len(planned)
    per_answer = each * (1 + 0.5 * traced)
    training = each * _training_passes(planned, folders, settings)
    layers = len(session.resident.moe_layers)
    disk = int(answers * _TOKENS * layers * _TRACE_BYTES * traced)
    existing = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    return Estimate(
        runs=sum(len(expand(item.spec)) for item in planned),
        answers=answers,
        seconds=answers * per_answer + training,
        training=training,
        memory=int(memory * 1.2),
        disk=disk,
        free=shutil.disk_usage(existing).free,
        sample=len(questions),
    )


def _training_passes(planned: Sequence[Planned], folders: Sequence[str], settings: Settings) -> float:
    """What the parts cost that are not trained yet, in answered questions; experiments share a part."""
    passes: dict[Path, float] = {}
    for item in planned:
        for folder, part in missing_parts(Inputs(item.spec, folders, settings)).items():
            train, validation = (
                len(load_questions(source, "validation", folders, settings).questions)
                for source in (part.data, part.validation)
            )
            steps = part.epochs * train
            draws = part.draws if isinstance(part, Training) else 1
            passes[folder] = steps * draws * _STEP[part.loss]
            passes[folder] += validation * (1 + steps // (part.batch_size * part.evaluate_every))
            if isinstance(part, Training) and part.tune_noise:
                passes[folder] += len(NOISE_GRID) * validation * item.spec.answer_samples
    return sum(passes.values())


def _largest(planned: Sequence[Planned], folders: Sequence[str], settings: Settings) -> list[FineTuning]:
    """Of the trainings that are still to be done the one whose pass holds the most texts, if there is any."""
    parts = [part for item in planned for part in missing_parts(Inputs(item.spec, folders, settings)).values()]
    return sorted(parts, key=lambda part: part.micro_batch)[-1:]


def _learn(session: Session, part: FineTuning) -> None:
    """One pass forward and back over as many of the longest texts as that training holds at once."""
    resident, inputs = session.resident, session.inputs
    questions = load_questions(part.data, "validation", inputs.folders, inputs.settings).questions
    examples = encode(
        resident.tokenizer,
        [likelihood_prompt(question.question) for question in questions],
        [likelihood_option(question.choices[question.answer]) for question in questions],
    )
    rows = sorted(((one.prompt, one.answer) for one in examples), key=lambda row: len(row[0]) + len(row[1]))
    tuned = fine_tune(resident.model)
    try:
        with tuned.learner().learning():
            log_likelihood(resident.model, rows[-part.micro_batch :])[0].sum().backward()
    finally:
        tuned.restore()


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
