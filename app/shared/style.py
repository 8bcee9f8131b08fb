"""The dashboard's style sheet."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

SHEET = Path(__file__).resolve().parents[1] / "static" / "style.css"


def apply_style() -> None:
    """Put the style sheet into the page; :func:`app.shared.page.head` does so on every page."""
    st.html(SHEET)
