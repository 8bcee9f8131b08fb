"""What the charts share: axes that line up, tooltips, and marks for the layers that carry Bayesian routers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import altair as alt
import pandas as pd

from app.figures.palette import MARK, NEUTRAL

# One left margin for every chart over layers, so that the layer axes of a page line up below each other.
LAYER_AXIS_EXTENT = 56
INTERVAL = "95 % interval"
#: the labels of an axis of signed differences, where 0 has no sign
SIGNED = "datum.value === 0 ? '0' : datum.label"


class ChartDataError(ValueError):
    """The frame lacks a column the chart draws, or holds values that cannot be drawn."""


def require(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """``frame`` reduced to ``columns``; raises :class:`ChartDataError` where one is missing."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ChartDataError(f"the chart needs the columns {', '.join(missing)}")
    return frame.loc[:, list(columns)].reset_index(drop=True)


def tip(field: str, title: str, form: str | None = None) -> alt.Tooltip:
    """One tooltip line; ``form`` is a d3 number format, e.g. ``.1%``."""
    return alt.Tooltip(field, title=title, format=form) if form else alt.Tooltip(field, title=title)


def layer_axis(layers: Iterable[int], *, title: str | None = "layer (0 = first block)") -> alt.X:
    """The shared horizontal axis: every MoE layer in order, also those without a value."""
    return alt.X(
        "layer:O",
        title=title,
        sort=None,
        scale=alt.Scale(domain=[int(layer) for layer in layers], paddingInner=0.06),
        axis=index_axis(),
    )


def index_axis(*, grid: bool = False) -> alt.Axis:
    """The axis of whole numbers such as experts, positions or steps: upright, and thinned where there are many."""
    return alt.Axis(labelAngle=0, labelOverlap="greedy", grid=grid)


def left_axis(title: str, *, form: str | None = None, grid: bool = True) -> alt.Axis:
    """A vertical axis of fixed width (see :data:`LAYER_AXIS_EXTENT`)."""
    options = ({"format": form} if form else {}) | ({"labelExpr": SIGNED} if form and form.startswith("+") else {})
    return alt.Axis(title=title, minExtent=LAYER_AXIS_EXTENT, maxExtent=LAYER_AXIS_EXTENT, grid=grid, **options)


def unit_scale() -> alt.Scale:
    """From 0 to 1, exactly."""
    return alt.Scale(domain=[0, 1], nice=False)


def key_legend(columns: int = 2, *, lines: bool = False, values: Sequence[str] | None = None) -> alt.Legend:
    """What colours and shapes stand for, above the chart; ``lines`` for a chart of lines."""
    # a stroke is as long as the root of its size: 26 pixels show a pattern of dashes
    stroke = {"symbolType": "stroke", "symbolStrokeWidth": 2, "symbolSize": 676}
    look: dict[str, Any] = stroke if lines else {"symbolSize": 90}
    if values is not None:
        look["values"] = list(values)
    return alt.Legend(orient="top", columns=columns, labelLimit=300, title=None, symbolOpacity=1, **look)


def ramp_legend(form: str, *, orient: Literal["top", "bottom"] = "top") -> alt.Legend:
    """The scale of a heatmap's colour with numbers in the d3 format ``form``; its title fits a phone."""
    # below a chart it begins where the plot does, which leaves less room
    return alt.Legend(orient=orient, gradientLength=180 if orient == "top" else 130, titleLimit=300, format=form)


def zero_line(*, horizontal: bool = True, dash: Sequence[int] = ()) -> alt.Chart:
    """The line of no difference."""
    frame = pd.DataFrame({"at": [0.0]})
    line = alt.Chart(frame).mark_rule(color=NEUTRAL, **({"strokeDash": list(dash)} if dash else {}))
    return line.encode(y=alt.Y("at:Q")) if horizontal else line.encode(x=alt.X("at:Q"))


def layer_selection() -> alt.Parameter:
    """The click on a layer; named, because unnamed selections change with every rerun."""
    return alt.selection_point(name="layer", fields=["layer"], on="click", empty=False)


def selected_outline(layers: Sequence[int], layer: int | None) -> alt.Chart | None:
    """A frame around the selected layer's column, or ``None`` where no drawn layer is selected."""
    if layer is None or layer not in layers:
        return None
    frame = pd.DataFrame({"layer": [int(layer)]})
    return (
        alt.Chart(frame)
        .mark_rect(filled=False, stroke=MARK, strokeWidth=2.5, tooltip=None)
        .encode(x=layer_axis(layers), y=alt.YValue(0), y2=alt.Y2Value("height"))
    )


def chosen_marks(layers: Sequence[int], chosen: Sequence[int]) -> alt.Chart | None:
    """A triangle below each layer that carries a Bayesian router, or ``None`` where there is none."""
    marked = [int(layer) for layer in chosen if layer in set(layers)]
    if not marked:
        return None
    return (
        alt.Chart(pd.DataFrame({"layer": marked, "note": "carries a Bayesian router"}))
        .mark_point(shape="triangle-up", size=55, filled=True, color=MARK, opacity=1, yOffset=-6)
        .encode(x=layer_axis(layers), y=alt.YValue("height"), tooltip=[tip("layer:O", "layer"), tip("note:N", "note")])
    )


def line_at(value: float, label: str, *, dash: Sequence[int] = (5, 4), horizontal: bool = True) -> alt.Chart:
    """A reference line at ``value``; what it is stands in its tooltip."""
    frame = pd.DataFrame({"at": [float(value)], "label": [label]})
    channel = {"y": alt.Y("at:Q")} if horizontal else {"x": alt.X("at:Q")}
    line = alt.Chart(frame).mark_rule(color=NEUTRAL, strokeDash=list(dash), strokeWidth=1.5)
    return line.encode(**channel, tooltip=[tip("label:N", "line"), tip("at:Q", "value", ".3f")])


def rule(
    value: float, label: str, *, dash: Sequence[int] = (5, 4), horizontal: bool = True, below: bool = False
) -> alt.LayerChart:
    """A reference line with its label, which stands at its start, above the line unless ``below``."""
    frame = pd.DataFrame({"at": [float(value)], "label": [label]})
    channel = {"y": alt.Y("at:Q")} if horizontal else {"x": alt.X("at:Q")}
    text = alt.Chart(frame).mark_text(
        color=NEUTRAL, align="left", baseline="top" if below else "bottom", dx=4, dy=3 if below else -2, fontSize=11
    )
    edge = {"x": alt.XValue(0)} if horizontal else {"y": alt.YValue(10)}
    return alt.layer(
        line_at(value, label, dash=dash, horizontal=horizontal),
        text.encode(**channel, **edge, text=alt.Text("label:N")),
    )


def stack(*charts: alt.Chart | alt.LayerChart | None, **properties: float) -> alt.LayerChart:
    """The charts that exist, drawn over each other; ``height`` and ``width`` given here spare a copy of them all."""
    return alt.layer(*(chart for chart in charts if chart is not None), **properties)
