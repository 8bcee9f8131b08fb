"""What a message, a log or a card may say of this machine: no secret of the environment, no path of the home folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY|COOKIE", re.I)
_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):([^\s@]+)@")  # keys of object stores hold slashes
_SHORTEST = 8  # characters; a shorter value would blank out ordinary words


def redact(text: str) -> str:
    """``text`` with the home folder as ``~``, and secrets of the environment and passwords in URLs as ``***``."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET.search(name):
            text = text.replace(value, "***")
    text = _PASSWORD.sub(r"\1:***@", text)
    home = _home()
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if home else text


def redacted(value: Any) -> Any:
    """``value``, of what JSON knows, with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


def _home() -> str:
    """The home folder; nothing where there is none, or only the root folder."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return ""
    return home if len(home) > 1 else ""
