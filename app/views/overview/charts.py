"""The charts that only the overview draws."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.figures.palette import NEUTRAL
from app.figures.parts import key_legend, require, stack, tip


def interval_dots(
    frame: pd.DataFrame, *, row: str, title: str, order: Sequence[str], percent: bool, group: str | None = None
) -> alt.LayerChart:
    """One point with its 95 % interval per row; ``group`` names the column that sets shape and colour."""
    columns = [row, "value", "ci_low", "ci_high", "n"] + ([group] if group else [])
    data = require(frame, *columns)
    form, axis_form = (".1%", ".0%") if percent else (".3f", ".2f")
    y = alt.Y(f"{row}:N", sort=list(order), title=None, axis=alt.Axis(labelLimit=200, grid=True))
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format=axis_form, tickCount=5))
    base = alt.Chart(data)
    offset: dict[str, alt.SchemaBase] = {}
    encodings: dict[str, alt.SchemaBase] = {}
    if group:
        groups = list(dict.fromkeys(data[group]))
        encodings = {
            "color": alt.Color(f"{group}:N", title=None, scale=alt.Scale(domain=groups), legend=key_legend(3)),
            "shape": alt.Shape(f"{group}:N", title=None, scale=alt.Scale(domain=groups)),
        }
        # Both groups of a row beside each other, so that their intervals do not hide one another.
        offset = {"yOffset": alt.YOffset(f"{group}:N", scale=alt.Scale(domain=groups, paddingOuter=0.6))}
    interval = base.mark_rule(color=NEUTRAL, strokeWidth=2).encode(
        x=alt.X("ci_low:Q", title=title), x2=alt.X2("ci_high:Q"), y=y, **offset
    )
    points = base.mark_point(filled=True, size=75, opacity=1).encode(
        x=x,
        y=y,
        tooltip=[
            tip(f"{row}:N", "run"),
            *([tip(f"{group}:N", group)] if group else []),
            tip("value:Q", title, form),
            tip("ci_low:Q", "95 % from", form),
            tip("ci_high:Q", "95 % to", form),
            tip("n:Q", "examples", ",d"),
        ],
        **encodings,
        **offset,
    )
    return stack(interval, points, height=(30 if group else 24) * len(order))
