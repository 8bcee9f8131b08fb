"""Colours of the dashboard: by index, so that a run or role keeps its colour on every page and in both themes.

The browser draws charts with the theme's own lists (``app/.streamlit/config.toml``, a test keeps both equal), so a
chart names a colour by its *index* in a stable domain and never by its value. Exported files carry the light list.
Colour is never the only sign: charts add a shape, a label or a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

Theme = Literal["light", "dark"]

# Contrast with the background is at least 3:1 and the first five stay apart for colour-blind readers (tested).
CATEGORICAL: dict[Theme, tuple[str, ...]] = {
    "light": ("#0B6BB5", "#D1560A", "#43206E", "#2E9C86", "#86143A", "#6B6100", "#5D6673", "#3F8FB0"),
    "dark": ("#5CB3F2", "#F7A04B", "#7E6BF0", "#A8EBD3", "#D6456B", "#D9CB4E", "#A7AFBC", "#F2B8DC"),
}
# Cividis: equal steps in lightness, readable with every kind of colour vision.
SEQUENTIAL: tuple[str, ...] = (
    "#00224E", "#123570", "#3B496C", "#575D6D", "#707173", "#8A8678", "#A59C74", "#C3B369", "#E1CC55", "#FEE838",
)  # fmt: skip
# Blue below the middle, orange above it.
DIVERGING: dict[Theme, tuple[str, ...]] = {
    "light": (
        "#0B4A82", "#2A74B4", "#62A0D3", "#A5CAE8", "#E1ECF4", "#FAE9DA", "#F5C396", "#E8924A", "#C9661C", "#8C3F06",
    ),
    "dark": (
        "#A9D5FA", "#6FB3EA", "#3F88C4", "#285A85", "#1F3246", "#40301F", "#85522A", "#C67A33", "#F2A357", "#FFD3A3",
    ),
}  # fmt: skip
BACKGROUND: dict[Theme, str] = {"light": "#FFFFFF", "dark": "#10151C"}
# Rules, labels and outlines inside charts: at least 3:1 on both backgrounds.
NEUTRAL = "#7C8592"
CALM = "#6C9BD2"  # as it should be, nothing to look at
MARK = "#D6409F"  # what the reader selected, and the layers that carry Bayesian routers
BETTER, WORSE = "#2E9C86", "#D1560A"  # always with a triangle up or down beside them

ROLES: tuple[str, ...] = ("in-distribution", "near-ood", "far-ood", "validation")
ROLE_LABELS: dict[str, str] = {
    "in-distribution": "in-distribution",
    "near-ood": "near-OoD",
    "far-ood": "far-OoD",
    "validation": "validation",
}


def index_scale(domain: Sequence[Any]) -> alt.Scale:
    """A scale that gives the i-th of ``domain`` the theme's i-th categorical colour."""
    return alt.Scale(domain=list(domain))


def export_config(theme: Theme = "light") -> dict[str, Any]:
    """The Vega-Lite config that gives an exported chart the colours it has on screen."""
    text = "#1B2430" if theme == "light" else "#E6EAF0"
    return {
        "background": BACKGROUND[theme],
        "font": "sans-serif",
        "range": {
            "category": list(CATEGORICAL[theme]),
            "ramp": list(SEQUENTIAL),
            "heatmap": list(SEQUENTIAL),
            "diverging": list(DIVERGING[theme]),
        },
        "mark": {"color": CATEGORICAL[theme][0]},
        "title": {"color": text, "anchor": "start", "subtitleColor": text},
        "axis": {"labelColor": text, "titleColor": text, "gridColor": NEUTRAL, "gridOpacity": 0.25},
        "legend": {"labelColor": text, "titleColor": text},
        "header": {"labelColor": text, "titleColor": text},
        "view": {"stroke": None},
    }
