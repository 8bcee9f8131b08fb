"""What every prompt, question and option must be before a tokenizer sees it."""

from __future__ import annotations

from pipelines.data.option_rules import wrong_options
from pipelines.errors import DataError
from pipelines.settings import Settings


def check_prompt(text: object, settings: Settings, place: str = "the prompt") -> str:
    """Return ``text`` itself if it can be tokenised: not empty, not too long, no NUL, no lone surrogate."""
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place} is empty" if text is None or isinstance(text, str) else f"{place} is not text")
    if len(text) > settings.max_prompt_chars:
        raise DataError(f"{place} has {len(text):,} characters; at most {settings.max_prompt_chars:,} are allowed")
    if "\0" in text:
        raise DataError(f"{place} holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place} holds a lone surrogate, which is no character") from None
    return text


def check_question(identifier: object, text: object, choices: object, max_chars: int) -> tuple[str, str] | None:
    """Return ``(column, what is wrong)`` of a question with options, or None when nothing is."""
    if not isinstance(identifier, str) or not identifier or len(identifier) > 500:
        return "id", "id must be text of 1 to 500 characters"
    if not isinstance(text, str) or not text.strip():
        return "question", "question is empty" if text is None or isinstance(text, str) else "question is not text"
    if wrong := wrong_options(choices):
        return "choices", wrong
    assert isinstance(choices, list | tuple)
    for column, value in (("id", identifier), ("question", text), *(("choices", choice) for choice in choices)):
        if len(value) > max_chars:
            return column, f"a text has {len(value)} characters; at most {max_chars} are allowed"
        try:
            value.encode()
        except UnicodeEncodeError:
            return column, "a text holds a lone surrogate, which is no character"
    return None
