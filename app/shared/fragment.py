"""Popovers and expanders whose content is made and sent only once they are open.

A page has dozens of them; made beforehand, they took longer than all its charts.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st


def draw_fragment(content: Callable[[], None]) -> None:
    """Draw ``content`` as a fragment, which reruns without the page."""
    st.fragment(content)()


def popover(label: str, content: Callable[[], None], *, key: str, help: str | None = None) -> None:
    """A button that opens a small window with ``content``; to stand in a part that runs :func:`draw_fragment`."""
    with st.popover(label, type="tertiary", key=key, help=help, on_change="rerun") as window:
        if window.open:
            content()


def folded(label: str, content: Callable[[], None], *, key: str) -> None:
    """A line that unfolds to ``content``."""

    def part() -> None:
        with st.expander(label, key=key, on_change="rerun") as fold:
            if fold.open:
                content()

    draw_fragment(part)
