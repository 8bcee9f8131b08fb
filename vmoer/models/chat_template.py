"""Try a stranger's chat template before it is used: it is a program, and it may not end."""

from __future__ import annotations

from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from vmoer.confined import ConfinedError, confined
from vmoer.errors import ModelSourceError

SECONDS = 10


def check_chat_template(tokenizer: Any, source: str) -> None:
    """Refuse a template that does not render a short question within ten seconds and 300 MiB.

    A template that raises is left alone: it says so itself, where it is used.
    """
    given = getattr(tokenizer, "chat_template", None) or {}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    for template in given.values() if isinstance(given, dict) else [given]:
        try:
            confined("vmoer.models.chat_template:render", template.encode(), {"special": special}, seconds=SECONDS)
        except ConfinedError as error:
            why = error.why.replace("to read", "to write one question").replace("to be read", "to write one question")
            raise ModelSourceError(f"The chat template of {source} {why}; use a tokenizer with another one.") from None


def render(content: bytes, special: dict[str, str]) -> int:
    """Return how many characters a template makes of one short question; −1 when it raises."""
    question: Any = [[{"role": "user", "content": "Which river flows through Paris?"}]]
    try:
        made, _ = render_jinja_template(question, chat_template=content.decode(), add_generation_prompt=True, **special)
    except MemoryError:
        raise
    except Exception:
        return -1
    return len(made[0])
