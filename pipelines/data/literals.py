"""Lists and records that a CSV cell holds as text: JSON, Python's notation, and what NumPy and pandas print."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from typing import Any

#: a backslash before what it has no meaning for; Python would warn of it
_ODD_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\[^\\'\"abfnrtvxuUN0-7\n]")


def value_in(text: str) -> Any:
    """Return the list or record that a text writes down; :class:`ValueError` when it is none, or in doubt.

    Texts side by side are elements of their own where NumPy prints them so; to Python they would be one text.
    """
    if not text.lstrip().startswith(("[", "{", "(")):
        raise ValueError("no list")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if _ODD_ESCAPE.search(text):
        raise ValueError("no list")
    try:
        tree = ast.parse(_with_commas(text), mode="eval")
        return _value(tree.body)
    except (SyntaxError, RecursionError, MemoryError, TypeError, tokenize.TokenError):
        raise ValueError("no list") from None


def _with_commas(text: str) -> str:
    """Put commas between the texts of an array as NumPy prints it; one that has both commas and none is refused."""
    flat = text.strip().replace("\r", " ").replace("\n", " ")  # strings of this notation write line breaks as \n
    tokens = list(tokenize.generate_tokens(io.StringIO(flat).readline))
    parts: list[str] = []
    beside = commas = 0
    before = None
    for token in tokens:
        if token.type == tokenize.STRING and before == tokenize.STRING:
            beside += 1
            parts.append(",")
        commas += token.string == "," and before == tokenize.STRING
        parts.append(token.string)
        before = token.type
    if beside and commas and "array" not in flat:
        raise ValueError("texts side by side in a list with commas")
    return " ".join(parts)


def _value(node: ast.expr) -> Any:
    """The value of an expression without names, operators or calls; ``array([…], …)`` is its list."""
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | int | float)):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True) if key is not None}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "array" and node.args:
        return _value(node.args[0])
    raise ValueError("no list")
