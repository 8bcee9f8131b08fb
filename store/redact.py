"""Remove secrets and home-folder paths from messages, logs and cards."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY|COOKIE", re.I)
_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):([^\s@]+)@")  # keys of object stores hold slashes
_SHORTEST = 8  # characters; a shorter value would blank out ordinary words


def redact(text: str) -> str:
    """Return ``text`` with the home folder as ``~`` and secrets and passwords in URLs as ``***``."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET.search(name):
            text = text.replace(value, "***")
    text = _PASSWORD.sub(r"\1:***@", text)
    home = _home()
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if home else text


def redacted(value: Any) -> Any:
    """Return a JSON value with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


def _home() -> str:
    """Return the home folder, or nothing where there is none or only the root folder."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return ""
    return home if len(home) > 1 else ""
