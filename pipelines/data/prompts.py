"""Every text that a model sees is made here, so that scoring, tracing, training and pretraining agree to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.data.option_rules import LETTERS

_INSTRUCTION = "Answer the multiple-choice question with the letter of the right option only."


def likelihood_prompt(question: str) -> str:
    """The text whose continuations are scored: ``Question: …`` and ``Answer:`` on the next line."""
    return f"Question: {question}\nAnswer:"


def likelihood_option(option: str) -> str:
    """One continuation of :func:`likelihood_prompt`: the option after a single space."""
    return f" {option}"


def letter_question(question: str, choices: Sequence[str]) -> str:
    """A question with its lettered options, ending in ``Answer:``; at most 26 options."""
    lines = [f"Question: {question}", "Choices:"]
    lines += [f"{letter}. {choice}" for letter, choice in zip(LETTERS[: len(choices)], choices, strict=True)]
    return "\n".join([*lines, "Answer:"])


def letter_prompt(question: str, choices: Sequence[str], tokenizer: Any = None) -> str:
    """The letter prompt; through the tokenizer's chat template when it has one."""
    text = letter_question(question, choices)
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        return f"{_INSTRUCTION}\n\n{text}"
    messages = [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def letter_options(n: int, chat: bool) -> list[str]:
    """The ``n`` letters as continuations; with a leading space unless a chat template precedes them."""
    return [letter if chat else f" {letter}" for letter in LETTERS[:n]]
