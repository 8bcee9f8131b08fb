"""The state of a page as typed, validated query parameters: every view has a link, and a wrong link says so.

Two steps, both free of Streamlit so that they can be tested by properties: :func:`parse` checks the form of each
parameter, :func:`choose` checks that its value exists in the store. Pages do both *before* drawing a widget, since a
widget silently replaces a value it does not know and would then show something else under the sender's link.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Value = str | int | float | tuple[str, ...]

MAX_TEXT = 200
MAX_VALUES = 32
_RUN_ID = re.compile(r"[a-z0-9._-]{1,200}\Z")


class LinkError(ValueError):
    """The link asks for something malformed or unknown; the message is one sentence for the reader."""


@dataclass(frozen=True)
class Parameter:
    """One query parameter: its name in the link, what it selects, and how its text becomes a value."""

    name: str
    noun: str
    read: Callable[[str], str | int | float]
    many: bool = False


def _shown(text: str) -> str:
    """``text`` shortened and with control characters removed, fit to be quoted in a message."""
    clean = "".join(character for character in text if character.isprintable())
    return clean if len(clean) <= 80 else clean[:79] + "…"


def _run_id(text: str) -> str:
    if not _RUN_ID.match(text):
        raise LinkError(f"run “{_shown(text)}” not found: run ids consist of a-z, 0-9, dot, dash and underscore.")
    return text


def _text(text: str) -> str:
    if not text or len(text) > MAX_TEXT or not text.isprintable():
        raise LinkError(f"“{_shown(text)}” is not a name: 1 to {MAX_TEXT} printable characters are expected.")
    return text


def _index(text: str) -> int:
    # str.isdigit also accepts superscripts and other scripts' digits, which int() may refuse.
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise LinkError(f"“{_shown(text)}” is not an index: a whole number from 0 is expected.")
    return int(text)


def _level(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise LinkError(f"“{_shown(text)}” is not a level: a finite number from 0 is expected.")
    return value + 0.0  # −0.0 and 0.0 are one state and must make one link


PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter("run", "run", _run_id),
        Parameter("baseline", "baseline run", _run_id),
        Parameter("runs", "run", _run_id, many=True),
        Parameter("dataset", "data set", _text),
        Parameter("datasets", "data set", _text, many=True),
        Parameter("experiment", "experiment", _text),
        Parameter("mode", "noise mode", _text),
        Parameter("gamma", "noise level γ", _level),
        Parameter("layer", "layer", _index),
        Parameter("view", "view", _text),
        Parameter("part", "part of the comparison", _text),
        Parameter("weighting", "load weighting", _text),
        Parameter("calibration", "calibration", _text),
        Parameter("scheme", "binning", _text),
        Parameter("score", "score", _text),
        Parameter("position", "position rule", _text),
        Parameter("aggregation", "aggregation", _text),
        Parameter("example", "example", _text),
        Parameter("token", "token position", _index),
        Parameter("quantity", "quantity", _text),
        Parameter("measure", "measure", _text),
        Parameter("by", "ranking", _text),
        Parameter("expert", "expert", _index),
        Parameter("curve", "curve", _text),
        Parameter("table", "table", _text),
        Parameter("inspection", "inspection", _text),
        Parameter("why", "explanation", _text),
        Parameter("prompt", "prompt", _index),
        Parameter("method", "method", _text),
        Parameter("job", "job", _text),
    )
}


def parse(query: Mapping[str, Sequence[str]]) -> dict[str, Value]:
    """The typed values of the known parameters in ``query``; raises :class:`LinkError` on a malformed one.

    Parameters this module does not know (a mail program's tracking tag, say) are ignored.
    """
    values: dict[str, Value] = {}
    for name, parameter in PARAMETERS.items():
        texts = list(query.get(name, ()))
        if not texts:
            continue
        if parameter.many:
            if len(texts) > MAX_VALUES:
                raise LinkError(f"the link names {len(texts)} values for “{name}”; at most {MAX_VALUES} are shown.")
            values[name] = tuple(dict.fromkeys(str(parameter.read(text)) for text in texts))
        elif len(texts) > 1:
            raise LinkError(f"the link gives “{name}” {len(texts)} times; once is expected.")
        else:
            values[name] = parameter.read(texts[0])
    return values


def render(values: Mapping[str, Value | None]) -> dict[str, list[str]]:
    """The query parameters of ``values``, such that ``parse(render(values)) == values``; ``None`` is left out."""
    query: dict[str, list[str]] = {}
    for name, value in values.items():
        if name not in PARAMETERS:
            raise KeyError(f"no query parameter {name!r}; there are {', '.join(PARAMETERS)}")
        if value is None or value == ():
            continue
        query[name] = list(value) if isinstance(value, tuple) else [_write(value)]
    return query


def _write(value: str | int | float) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def choose(name: str, value: T | None, options: Sequence[T], default: T | None) -> T | None:
    """``value`` if it is one of ``options``, ``default`` if the link has none; else :class:`LinkError`.

    Numbers match within rounding, so that a link written by hand (``gamma=0.01``) finds the stored level.
    """
    if value is None:
        return default
    for option in options:
        if option == value:
            return option
        if isinstance(option, float) and isinstance(value, (int, float)) and math.isclose(option, value, rel_tol=1e-9):
            return option
    noun = PARAMETERS[name].noun
    raise LinkError(f"{noun} “{_shown(str(value))}” not found.{_hint(options)}")


def choose_many(
    name: str, values: Sequence[str] | None, options: Sequence[str], default: Sequence[str], limit: int | None = None
) -> tuple[str, ...]:
    """All of ``values``, in their order, if each is one of ``options``; ``default`` if the link has none.

    More than ``limit`` values are refused rather than cut: a page must not show half of what a link asks for.
    """
    if values is None:
        return tuple(default)
    if limit is not None and len(values) > limit:
        raise LinkError(f"the link names {len(values)} values for “{name}”; at most {limit} are shown side by side.")
    for value in values:
        if value not in options:
            raise LinkError(f"{PARAMETERS[name].noun} “{_shown(value)}” not found.{_hint(options)}")
    return tuple(values)


def _hint(options: Sequence[object]) -> str:
    if not options:
        return " None is known here."
    if len(options) > 8:
        return ""
    return " Known here: " + ", ".join(_shown(str(option)) for option in options) + "."
