"""The token ids that a model reads of each question, and what has to be said of them before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipelines.data.option_rules import some
from pipelines.data.prompts import letter_options, letter_prompt, likelihood_option, likelihood_prompt
from pipelines.data.questions import Question, QuestionSet
from pipelines.errors import DataError
from pipelines.model.resident import Resident
from pipelines.spec.model import Spec
from vmoer.models.context_limit import context_limit
from vmoer.scoring.answer_tokens import AnswerTokens, answer_tokens


def prompt_of(spec: Spec, tokenizer: Any, question: Question) -> str:
    """The prompt of a question under the spec's scoring; a prompt without answers as it is."""
    if not question.answered:
        return question.question
    if spec.scoring == "likelihood":
        return likelihood_prompt(question.question)
    return letter_prompt(question.question, question.choices, tokenizer)


def answer_texts(spec: Spec, tokenizer: Any, question: Question) -> list[str]:
    """What is scored behind a question's prompt, one text per option: its words, or its letter."""
    if spec.scoring == "likelihood":
        return [likelihood_option(choice) for choice in question.choices]
    return letter_options(len(question.choices), _has_template(tokenizer))


def tokens_of(spec: Spec, resident: Resident, question: Question) -> AnswerTokens:
    """Token ids of a question's prompt and options as the model reads them, cut or refused where they are too many.

    What a chat template has rendered gets no special tokens beside its own.
    """
    tokens = _whole(spec, resident.tokenizer, question)
    most = context_limit(resident.model.config)
    if most is None or not check_lengths([(question.id, tokens.longest)], most, spec.truncate, "question", spec.model):
        return tokens
    return tokens.cut(most)


def described(spec: Spec, resident: Resident, item: QuestionSet, note: Callable[[str], None]) -> dict[str, Any]:
    """What the card says of the texts of a question set; refused where some are longer than the model can read.

    ``joined`` questions have an option that the tokenizer joins to the prompt's end, ``alike`` ones options that have
    the same tokens, and of ``cut`` ones the first tokens are left out. All are counts.
    ``note`` hears a sentence for each that is not 0.
    """
    most = context_limit(resident.model.config)
    texts = [_whole(spec, resident.tokenizer, question) for question in item.questions]
    lengths = [(question.id, tokens.longest) for question, tokens in zip(item.questions, texts, strict=True)]
    cut = check_lengths(lengths, most, spec.truncate, item.source, spec.model)
    if cut and most is not None:
        texts = [tokens.cut(most) for tokens in texts]  # refused now where an answer alone is too long
    joined = _which(item, (tokens.joined for tokens in texts))
    alike = _which(item, (len({(*c, *a) for c, a in _rows(tokens)}) < len(tokens.answers) for tokens in texts))
    for names, what in (
        (item.left_out, "left out: options repeat"),
        (cut, f"without the first tokens of their prompts, which are longer than {most} tokens"),
        (joined, "with an option that the tokenizer joins to the prompt's end"),
        (alike, "with options that have the same tokens, so that the first of them counts as the prediction"),
    ):
        if names:
            note(f"{item.source}: {len(names)} questions {what} ({some(names)})")
    added = _adds_special_tokens(spec, resident.tokenizer, item.questions[0])
    return {
        "special_tokens": "added" if added else "as the chat template writes them",
        "longest": max(length for _, length in lengths),
        "most": most,
        "truncate": spec.truncate,
        "cut": len(cut),
        "joined": len(joined),
        "alike": len(alike),
        "left_out": list(item.left_out),
    }


def check_lengths(
    lengths: Sequence[tuple[str, int]], most: int | None, truncate: str | None, source: str, model: str
) -> list[str]:
    """Ids of the texts that are longer than the ``most`` tokens a model can read; refused unless they are to be cut.

    ``lengths`` are ids with numbers of tokens.
    """
    beyond = {name: length for name, length in lengths if most is not None and length > most}
    if beyond and truncate is None:
        raise DataError(
            f"{source}: {len(beyond)} of {len(lengths)} texts are longer than the {most:,} tokens {model} can read "
            f"({some(beyond)}; the longest has {max(beyond.values()):,}); shorten them, or leave out their first "
            "tokens by `truncate: left` in the spec"
        )
    return list(beyond)


def _whole(spec: Spec, tokenizer: Any, question: Question) -> AnswerTokens:
    return answer_tokens(
        tokenizer,
        prompt_of(spec, tokenizer, question),
        answer_texts(spec, tokenizer, question),
        _adds_special_tokens(spec, tokenizer, question),
        f"question {question.id}",
    )


def _adds_special_tokens(spec: Spec, tokenizer: Any, question: Question) -> bool:
    """Whether the tokenizer opens the prompt: where a chat template renders it, that is the template's business."""
    return not (question.answered and spec.scoring == "letter" and _has_template(tokenizer))


def _has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def _rows(tokens: AnswerTokens) -> Iterable[tuple[list[int], list[int]]]:
    return zip(tokens.contexts, tokens.answers, strict=True)


def _which(item: QuestionSet, flags: Iterable[bool]) -> list[str]:
    """Ids of the questions for which the flag is set."""
    return [question.id for question, flag in zip(item.questions, flags, strict=True) if flag]
