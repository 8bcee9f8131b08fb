"""A prompt as a strip of its tokens, each shaded by a number; escaped, static HTML that follows the theme."""

from __future__ import annotations

import html
from collections.abc import Sequence

import streamlit as st


def visible(token: str | None, token_id: int | None = None) -> str:
    """The token with white space made visible; its vocabulary index where the run stores no text."""
    if token is None:
        return f"#{token_id}" if token_id is not None else "·"
    shown = token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n")
    return shown.replace("\n", "⏎").replace("\t", "⇥") or "∅"


def strip_html(tokens: Sequence[str], weights: Sequence[float], titles: Sequence[str], marked: int | None) -> str:
    """The strip as HTML; ``weights`` in [0, 1] shade the tokens, ``titles`` are their tooltips."""
    parts = []
    for number, (token, weight, title) in enumerate(zip(tokens, weights, titles, strict=True)):
        share = min(max(weight, 0.0), 1.0)
        on = ' class="on"' if number == marked else ""
        parts.append(
            f'<span{on} style="--w:{share * 70:.0f}" title="{html.escape(title, quote=True)}">'
            f"{html.escape(token)}</span>"
        )
    return f'<div class="vmoer-strip" role="img" aria-label="Prompt, token by token">{"".join(parts)}</div>'


def token_strip(tokens: Sequence[str], weights: Sequence[float], titles: Sequence[str], marked: int | None) -> None:
    """Draw the strip."""
    st.html(strip_html(tokens, weights, titles, marked))
