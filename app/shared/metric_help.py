"""Popovers that say what a metric means; the text is the metric's own definition."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.shared.fragment import popover
from vmoer.metrics import definition

_BETTER = {"higher": "Higher is better.", "lower": "Lower is better.", "none": "Neither way is better."}


def explanation(name: str) -> str:
    """Markdown with title, formula, unit, direction, meaning and pitfalls of the metric called ``name``."""
    one = definition(name)
    unit = "" if one.unit in ("", "none") else f" Unit: {one.unit}."
    parts = [
        f"**{one.title}** (`{one.name}`)",
        f"$${one.formula}$$",
        f"{one.help}",
        f"**{_BETTER[one.direction]}**{unit}",
        f"*Beware:* {one.pitfalls}",
    ]
    if one.reference:
        parts.append(f":small[{one.reference}]")
    return "\n\n".join(parts)


def metric_help(names: Sequence[str], *, key: str, label: str = "What is this?") -> None:
    """A popover with the definitions of ``names``."""

    def content() -> None:
        for number, name in enumerate(names):
            if number:
                st.divider()
            st.markdown(explanation(name))

    popover(label, content, key=f"{key}.help")
