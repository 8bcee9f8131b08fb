"""What opens on demand: popovers and folded parts whose content is made and sent only once they are open.

A page has dozens of them; made beforehand, they took longer than all its charts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st


def popover(label: str, content: Callable[[], None], *, key: str, help: str | None = None) -> None:
    """A button that opens a small window with ``content``; only this part of the page runs for it."""
    st.fragment(partial(_popover, label, content, key, help), key=f"{key}.part")()


def folded(label: str, content: Callable[[], None], *, key: str) -> None:
    """A line that unfolds to ``content``; only this part of the page runs for it."""
    st.fragment(partial(_folded, label, content, key), key=f"{key}.part")()


def _popover(label: str, content: Callable[[], None], key: str, help: str | None) -> None:
    with st.popover(label, type="tertiary", key=key, help=help, on_change="rerun") as part:
        if part.open:
            content()


def _folded(label: str, content: Callable[[], None], key: str) -> None:
    with st.expander(label, key=key, on_change="rerun") as part:
        if part.open:
            content()
