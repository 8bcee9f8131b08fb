"""The tokens of answers after their prompts: those that the tokenizer gives for the whole text.

Prompt and answer are never tokenised apart: many tokenizers put a mark in front of any text, or join its first
characters to what stands before. An answer's tokens are those of prompt + answer after the prompt's own. Where the
tokenizer joins the end of the prompt to the beginning of an answer, the two part where their tokens begin to differ:
the answer then begins with the token that holds its first character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vmoer.errors import VmoerError


@dataclass(frozen=True)
class AnswerTokens:
    """Token ids of a prompt and of the answers after it: ``contexts[i] + answers[i]`` is the whole text of answer i.

    A context is the prompt, except where the tokenizer joins the prompt's end to that answer. ``opening`` is the number
    of special tokens the prompt begins with, which cutting leaves in place.
    """

    prompt: list[int]
    contexts: list[list[int]]
    answers: list[list[int]]
    opening: int = 0

    @property
    def joined(self) -> bool:
        """Whether an answer begins inside the prompt's last tokens."""
        return any(context != self.prompt for context in self.contexts)

    @property
    def longest(self) -> int:
        """Most tokens a model has to read for it: the prompt, and of each answer all but the last token."""
        rows = zip(self.contexts, self.answers, strict=True)
        return max([len(self.prompt), *(len(context) + len(answer) - 1 for context, answer in rows)])

    def cut(self, most: int) -> AnswerTokens:
        """The same with the first tokens of the prompt left out, so that :attr:`longest` is at most ``most``.

        The special tokens it opens with stay. Raises :class:`VmoerError` where an answer alone is too long.
        """
        if self.longest <= most:
            return self
        room = most - max([0, *(len(answer) - 1 for answer in self.answers)])
        if room <= self.opening:
            raise VmoerError(f"An answer is longer than the {most} tokens this model can read.")
        return replace(
            self,
            prompt=_last(self.prompt, room, self.opening),
            contexts=[_last(context, room, self.opening) for context in self.contexts],
        )


def prompt_tokens(tokenizer: Any, text: str, special_tokens: bool = True) -> list[int]:
    """Token ids of a text that goes on: with the special tokens that open a text, without those that close one.

    A text that begins with one of the tokenizer's special tokens, written out, has those it shall have: none is added.
    So it is with ``special_tokens=False``, for text that a chat template has rendered.
    """
    return _Opening(tokenizer, special_tokens).ids(text)


def answer_tokens(
    tokenizer: Any, prompt: str, answers: Sequence[str], special_tokens: bool = True, what: str = "the prompt"
) -> AnswerTokens:
    """Token ids of a prompt and of the texts that may follow it, which carry their own leading space.

    ``what`` names the prompt in errors. Raises :class:`VmoerError` for an empty prompt, an answer that adds no token,
    and one whose first token is also the prompt's first: nothing stands before it.
    """
    opening = _Opening(tokenizer, special_tokens)
    start = opening.ids(prompt)
    if not start:
        raise VmoerError(f"{what[0].upper()}{what[1:]} is empty: there is nothing to route.")
    contexts, rest = [], []
    for number, answer in enumerate(answers):
        whole = opening.ids(prompt + answer)
        shared = _shared(start, whole)
        if shared == len(whole):
            raise VmoerError(f"Option {number} of {what} has no tokens of its own.")
        if shared == 0:
            raise VmoerError(f"Option {number} joins the first token of {what}: no token stands before it.")
        contexts.append(start if shared == len(start) else whole[:shared])
        rest.append(whole[shared:])
    return AnswerTokens(start, contexts, rest, opening.count(start))


class _Opening:
    """How a tokenizer opens and closes texts with special tokens, found from a text of one letter."""

    def __init__(self, tokenizer: Any, special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._added = special_tokens
        whole, plain = self._call("a", True), self._call("a", False)
        places = [place for place in range(len(whole)) if plain and whole[place : place + len(plain)] == plain]
        self._opening = whole[: places[0]] if places else []
        self._closing = len(whole) - places[0] - len(plain) if places else 0
        known = getattr(tokenizer, "added_tokens_decoder", {}).values()
        self._written = tuple(token.content for token in known if token.special)

    def ids(self, text: str) -> list[int]:
        if not self._added or text.startswith(self._written):
            return self._call(text, False)
        ids = self._call(text, True)
        return ids[: len(ids) - self._closing]

    def count(self, ids: list[int]) -> int:
        """How many tokens at the start of ``ids`` are those that open a text."""
        return len(self._opening) if ids[: len(self._opening)] == self._opening else 0

    def _call(self, text: str, special_tokens: bool) -> list[int]:
        return [int(token) for token in self._tokenizer(text, add_special_tokens=special_tokens)["input_ids"]]


def _shared(first: list[int], second: list[int]) -> int:
    """How many tokens two texts begin with in common."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _last(ids: list[int], most: int, opening: int) -> list[int]:
    """The ``opening`` first and as many of the last tokens as there is room for."""
    return ids if len(ids) <= most else ids[:opening] + ids[len(ids) - (most - opening) :]
