"""The row of selectors at the top of a page: side by side, and on a narrow screen one row that is swiped."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

_STYLE = """<style>
@media (max-width: 640px) {
  .st-key-choices { flex-wrap: nowrap; overflow-x: auto; scroll-snap-type: x proximity; padding-bottom: 0.4rem; }
  .st-key-choices > * { flex: 0 0 auto; max-width: 78%; scroll-snap-align: start; }
}
</style>"""


def choice_row() -> DeltaGenerator:
    """The container of a page's selectors. Stacked on a phone, they would fill the screen before the first chart."""
    st.html(_STYLE)
    return st.container(horizontal=True, gap="small", key="choices")
