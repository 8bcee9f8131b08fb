"""The row of selectors at the top of a page: side by side, and on a narrow screen one row that is swiped."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator


def choice_row() -> DeltaGenerator:
    """Return the container of a page's selectors; the style sheet knows it by its key."""
    return st.container(horizontal=True, gap="small", key="choices")
