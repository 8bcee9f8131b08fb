"""Charts over layers: stability of routing under noise and leverage of routing; one shared layer axis."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.figures.palette import NEUTRAL
from app.figures.parts import (
    chosen_marks,
    key_legend,
    layer_axis,
    layer_selection,
    left_axis,
    ramp_legend,
    require,
    rule,
    selected_outline,
    stack,
    tip,
    unit_scale,
)
from app.figures.stability import instability

MEASURES = {
    "jaccard": "mean Jaccard (1 = same experts)",
    "instability": "1 − Jaccard above chance (0 = same)",
}


def stability_heatmap(
    frame: pd.DataFrame,
    layers: Sequence[int],
    *,
    measure: str = "jaccard",
    layer: int | None = None,
    gamma: float | None = None,
) -> alt.LayerChart:
    """Layer × noise level, coloured by mean Jaccard or by its distance from 1 above chance; a dot marks susceptible."""
    columns = ("layer", "gamma", "jaccard", "ci_low", "ci_high", "chance", "threshold", "susceptible", "n")
    data = require(frame, *columns)
    data["instability"] = instability(data["jaccard"], data["chance"])
    data["level"] = data["gamma"].map(lambda value: f"{value:g}")
    order = [f"{value:g}" for value in sorted(data["gamma"].unique(), reverse=True)]
    y = alt.Y("level:O", sort=order, axis=left_axis("noise γ", grid=False))
    cells = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=layer_axis(layers),
            y=y,
            color=alt.Color(
                f"{measure}:Q",
                title=MEASURES[measure],
                scale=alt.Scale(domain=[0, 1], clamp=True),
                legend=ramp_legend(".1f"),
            ),
            tooltip=[
                tip("layer:O", "layer"),
                tip("level:O", "noise γ"),
                tip("jaccard:Q", "mean Jaccard", ".3f"),
                tip("ci_low:Q", "95 % from", ".3f"),
                tip("ci_high:Q", "95 % to", ".3f"),
                tip("instability:Q", "1 − Jaccard above chance", ".3f"),
                tip("chance:Q", "expected by chance", ".3f"),
                tip("threshold:Q", "susceptible below", ".3f"),
                tip("n:Q", "tokens", ",d"),
            ],
        )
        .add_params(layer_selection())
    )
    dots = (
        alt.Chart(data[data["susceptible"].astype(bool)])
        .mark_point(filled=True, color="#FFFFFF", size=22, opacity=0.95, tooltip=None)
        .encode(x=layer_axis(layers), y=y)
    )
    level = None
    if gamma is not None:
        level = (
            alt.Chart(pd.DataFrame({"level": [f"{gamma:g}"]}))
            .mark_rect(filled=False, stroke=NEUTRAL, strokeDash=[4, 3], strokeWidth=1.5, tooltip=None)
            .encode(y=y, x=alt.XValue(0), x2=alt.X2Value("width"))
        )
    height = 26 * len(order)
    return stack(cells, dots, level, selected_outline(layers, layer), height=height)


def stability_by_run(
    frame: pd.DataFrame, layers: Sequence[int], *, threshold: float, chance: float, chosen: Sequence[int] = ()
) -> alt.LayerChart:
    """Jaccard per layer of several ``series`` on one scale, each with its interval where it has one."""
    data = require(frame, "layer", "series", "jaccard", "ci_low", "ci_high", "n")
    names = list(dict.fromkeys(data["series"]))
    scale = alt.Scale(domain=names)
    offset = alt.XOffset("series:N", scale=alt.Scale(domain=names, paddingOuter=0.6))
    x = layer_axis(layers)
    y = alt.Y("jaccard:Q", scale=unit_scale(), axis=left_axis("Jaccard (1 = same)", form=".1f"))
    interval = (
        alt.Chart(data[data["ci_low"].notna() & data["ci_high"].notna()])
        .mark_rule(color=NEUTRAL, strokeWidth=1.5)
        .encode(x=x, xOffset=offset, y=alt.Y("ci_low:Q"), y2=alt.Y2("ci_high:Q"))
    )
    points = (
        alt.Chart(data.drop(columns=["ci_low", "ci_high"]))
        .mark_point(filled=True, size=60, opacity=1)
        .encode(
            x=x,
            xOffset=offset,
            y=y,
            color=alt.Color("series:N", title=None, scale=scale, legend=key_legend(1)),
            shape=alt.Shape("series:N", title=None, scale=scale),
            tooltip=[
                tip("series:N", "what"),
                tip("layer:O", "layer"),
                tip("jaccard:Q", "mean Jaccard", ".3f"),
                tip("n:Q", "tokens", ",d"),
            ],
        )
        .add_params(layer_selection())
    )
    lines = [rule(threshold, "susceptible below this line", below=True), rule(chance, "two random sets", dash=(2, 3))]
    return stack(*lines, interval, points, chosen_marks(layers, chosen), height=230)
