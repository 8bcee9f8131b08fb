"""What a training is given and what it gives back: settings, examples and the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vmoer.errors import VmoerError
from vmoer.scoring.answer_tokens import answer_tokens

Loss = Literal["answer", "choice"]
Objective = Literal["expected", "averaged"]


@dataclass(frozen=True)
class TrainingConfig:
    """Hyper-parameters; ``batch_size`` counts questions per optimiser step, split into parts of ``micro_batch`` texts.

    A question is one text, or one per option with ``loss="choice"``, times ``draws``; a part has one question at least.
    ``draws`` routing draws per question and step. ``objective``: ``expected`` is the mean over draws of −log p(answer)
    (the ELBO's first term); ``averaged`` is −log of the mean over draws of p(answer), which rewards a posterior whose
    draws differ usefully. ``kl_warmup`` is the share of the steps over which β rises from 0. ``progressive`` trains one
    layer at a time, deepest first, those below still native.
    """

    beta: float = 0.01
    learning_rate: float = 1e-3
    epochs: int = 3
    batch_size: int = 16
    micro_batch: int = 16
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    patience: int = 3
    evaluate_every: int = 20
    loss: Loss = "answer"
    objective: Objective = "expected"
    draws: int = 1
    kl_warmup: float = 0.0
    progressive: bool = False
    data_seed: int = 0
    sampling_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch", "patience", "evaluate_every", "draws"):
            if getattr(self, name) < 1:
                raise VmoerError(f"Training: {name} must be 1 or more, not {getattr(self, name)}.")
        if not self.learning_rate > 0 or not self.beta >= 0 or not 0 <= self.warmup < 1 or not 0 <= self.kl_warmup <= 1:
            raise VmoerError("Training: learning_rate must be positive, beta 0 or more, warmup in [0, 1).")
        if self.loss not in ("answer", "choice") or self.objective not in ("expected", "averaged"):
            raise VmoerError("Training: loss is answer or choice, objective is expected or averaged.")


@dataclass(frozen=True)
class Example:
    """One training text: token ids of the prompt, of its right answer, and of the wrong options (``choice`` only).

    ``contexts`` are what stands before the wrong options where that is not ``prompt``, as
    :mod:`vmoer.scoring.answer_tokens` explains. ``member`` is the member of an ensemble that learns from it.
    """

    prompt: list[int]
    answer: list[int]
    wrong: tuple[list[int], ...] = ()
    member: int = 0
    contexts: tuple[list[int], ...] = ()

    @property
    def longest(self) -> int:
        """Most tokens a model has to read for it: of each text all but the last."""
        return max(len(prompt) + len(answer) - 1 for prompt, answer in self.rows(choice=True))

    def rows(self, choice: bool) -> list[tuple[list[int], list[int]]]:
        """Prompt and answer, and with ``choice`` those of the wrong options after it."""
        contexts = self.contexts or (self.prompt,) * len(self.wrong)
        return [(self.prompt, self.answer), *(zip(contexts, self.wrong, strict=True) if choice else ())]


@dataclass
class TrainingResult:
    """``log`` rows are ``(step, layer or −1, quantity, value)``; the learner holds the best weights seen."""

    steps: int = 0
    best_step: int = 0
    best_validation_nll: float = math.inf
    stopped_early: bool = False
    log: list[tuple[int, int, str, float]] = field(default_factory=list)


def encode(
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    wrong: Sequence[Sequence[str]] | None = None,
    most: int | None = None,
) -> list[Example]:
    """Token ids of prompts, their right answers and wrong options (texts carry their own leading space).

    Of a text longer than ``most`` tokens the first ones of the prompt are left out.
    """
    others: Sequence[Sequence[str]] = wrong if wrong is not None else [()] * len(prompts)
    examples = []
    for number, (prompt, answer, texts) in enumerate(zip(prompts, answers, others, strict=True)):
        tokens = answer_tokens(tokenizer, prompt, [answer, *texts], what=f"prompt {number}")
        if most is not None:
            tokens = tokens.cut(most)
        first, *contexts = tokens.contexts
        apart = any(context != first for context in contexts)
        right, *rest = tokens.answers
        examples.append(Example(first, right, tuple(rest), contexts=tuple(contexts) if apart else ()))
    return examples
