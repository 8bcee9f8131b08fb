"""A page as one file: the figures it draws, and those of views not open now, as a ZIP that is made when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.downloads.bundle import bundle
from app.downloads.files import Section

_KEPT = "vmoer.figures"


@dataclass
class _Kept:
    """Where the button of the page stands, and how each of its figures becomes part of the file, by key."""

    slot: DeltaGenerator
    figures: dict[str, Callable[[], Section | None]] = field(default_factory=dict)


def begin_file(slot: DeltaGenerator) -> None:
    """Begin the file of a page, without figures; its button will stand in ``slot``."""
    st.session_state[_KEPT] = _Kept(slot)


def add_figure(key: str, make: Callable[[], Section | None]) -> None:
    """Add a figure to the page's file; ``make`` is called at download and may return ``None``."""
    kept = st.session_state.get(_KEPT)
    if kept is not None:
        kept.figures[key] = make


def draw_download(name: str) -> None:
    """Draw the button, once every figure of the page called ``name`` is known; without a figure there is none."""
    kept = st.session_state.get(_KEPT)
    if kept is None or not kept.figures:
        return
    kept.slot.download_button(
        "Page as ZIP",
        lambda: page_file(name, kept.figures),
        file_name=f"vmoer-{name}.zip",
        mime="application/zip",
        type="tertiary",
        key="page.zip",
        on_click="ignore",
        help="Every table and chart of this page as chosen now: CSV, Parquet, JSON, LaTeX; PNG, SVG, Vega-Lite",
    )


def page_file(name: str, figures: dict[str, Callable[[], Section | None]]) -> bytes:
    """The ZIP of these figures, each with its own reproducibility card; all cards again in ``card.json``."""
    found = [section for make in figures.values() if (section := make()) is not None]
    return bundle(found, {"page": name, "figures": [section.card for section in found]})
