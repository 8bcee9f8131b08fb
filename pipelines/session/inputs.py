"""What an experiment is computed from: its spec, its question sets, the data folder and the settings; torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipelines.data.questions import Question, QuestionSet, load_all
from pipelines.settings import Settings
from pipelines.spec.model import Spec
from pipelines.spec.parts import Parts

#: forward passes' worth of tokens in one step
STEP_PASSES = 4


@dataclass(frozen=True)
class Inputs:
    """One experiment as it was asked for; relative paths of its spec are looked for in ``folders``.

    ``output`` is where what the spec trains is written, instead of the data folder (``vmoer train --output``).
    """

    spec: Spec
    folders: Sequence[str]
    settings: Settings
    output: Path | None = None

    @property
    def home(self) -> Path:
        """The data folder."""
        return self.settings.home

    @property
    def parts(self) -> Parts:
        """Where the weights that the spec names lie."""
        return Parts(self.spec, self.home, self.folders, self.output)

    @cached_property
    def sets(self) -> list[QuestionSet]:
        """Every question set, the validation set first; read once."""
        return load_all(self.spec, self.folders, self.settings)

    def questions(self, dataset: str) -> QuestionSet:
        """Return the question set of that name."""
        return next(item for item in self.sets if item.name == dataset)

    @property
    def in_distribution(self) -> QuestionSet:
        """The in-distribution set."""
        return next(item for item in self.sets if item.role == "in-distribution")

    @property
    def calibration(self) -> QuestionSet:
        """The set for everything that is fitted or chosen: validation when there is one, else in-distribution."""
        return self.sets[0] if self.sets[0].role == "validation" else self.in_distribution


def tokens_about(question: Question) -> int:
    """Return a rough token count of a question with its options (four characters a token), equal on every machine."""
    return 8 + (len(question.question) + sum(map(len, question.choices))) // 4


def chunks(questions: Sequence[Question], budget: int) -> Iterator[tuple[int, int, int]]:
    """Yield ``(first, last + 1, tokens)`` of consecutive questions of about ``budget`` tokens; never empty."""
    first = tokens = 0
    for number, question in enumerate(questions):
        cost = tokens_about(question)
        if number > first and tokens + cost > budget:
            yield first, number, tokens
            first, tokens = number, 0
        tokens += cost
    if questions:
        yield first, len(questions), tokens


def steps(questions: Sequence[Question], spec: Spec, passes: int = 1) -> Iterator[tuple[int, int, int]]:
    """Yield ``(first, last + 1, tokens)`` of the questions of one step, its forward passes shared by ``passes``."""
    return chunks(questions, max(STEP_PASSES * spec.batch_tokens // passes, 1))
