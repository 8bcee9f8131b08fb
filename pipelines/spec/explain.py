"""One sentence for what pydantic found wrong in a spec: the full key path, the fault, and what would be right."""

from __future__ import annotations

import difflib
import types
import typing
from typing import Any

from pydantic import BaseModel, ValidationError

_NUMBER = {"int_type": "a whole number", "float_type": "a number", "bool_type": "true or false", "string_type": "text"}


def explain(error: ValidationError, root: type[BaseModel], values: dict[str, Any]) -> str:
    """The first problem as a sentence, with a count of the others."""
    problems = error.errors(include_url=False)
    # an unknown key is most often the cause of the others (a misspelt required key is also a missing one)
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    first = _sentence(problems[0], root)
    more = len(problems) - 1
    return first if not more else f"{first} (and {more} more problem{'s' if more > 1 else ''})"


def _sentence(problem: Any, root: type[BaseModel]) -> str:
    kind, location = problem["type"], problem["loc"]
    path = key_path(location)
    given = problem.get("input")
    shown = f" (found {_printable(repr(given))})" if isinstance(given, str | int | float) else ""
    context = problem.get("ctx", {})
    if kind == "extra_forbidden":
        known = known_keys(root, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
        return f"{path}: unknown key; {hint}"
    if kind == "missing":
        return f"{path}: required key is missing"
    if kind == "value_error":
        reason = str(context["error"])
        return f"{path}: {reason}" if path else reason
    if kind in _NUMBER:
        return f"{path}: must be {_NUMBER[kind]}{shown}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{path}: must be a mapping of keys to values{shown}"
    if kind == "list_type":
        return f"{path}: must be a list, for instance [a, b]{shown}"
    if kind == "literal_error":
        return f"{path}: must be one of {context['expected']}{shown}"
    if kind == "string_pattern_mismatch":
        return f"{path}: has characters that are not allowed here{shown}"
    message = str(problem["msg"]).replace("Input should be", "must be")
    return f"{path}: {message[:1].lower()}{message[1:]}{shown}"


def key_path(location: tuple[int | str, ...]) -> str:
    """``('data', 'near', 0, 'path')`` → ``data.near[0].path``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in ("[key]",):
            text += f".{_printable(part)}" if text else _printable(part)
    return text


def known_keys(root: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at a place in the spec."""
    model: type[BaseModel] | None = root
    for part in location:
        if isinstance(part, int) or model is None:
            continue
        names = {field.alias or name: field for name, field in model.model_fields.items()}
        if part in names:
            model = _model_in(names[str(part)].annotation)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside ``list[Model]``, ``Model | None`` or ``Model``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (list, typing.Union, types.UnionType, typing.Annotated):
        for inner in typing.get_args(annotation):
            found = _model_in(inner)
            if found is not None:
                return found
    return None


def _printable(part: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in part)[:80]
