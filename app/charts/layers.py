"""Charts over layers: stability of routing under noise and leverage of routing; one shared layer axis."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.charts.base import (
    chosen_marks,
    key_legend,
    layer_axis,
    layer_selection,
    left_axis,
    ramp_legend,
    require,
    selected_outline,
    stack,
    tip,
    zero_line,
)
from app.charts.stability import instability
from app.palette import NEUTRAL

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


def leverage_bars(
    frame: pd.DataFrame,
    layers: Sequence[int],
    *,
    quantity: str = "accuracy",
    chosen: Sequence[int] = (),
    layer: int | None = None,
) -> alt.LayerChart:
    """Change of accuracy (or NLL, nats) per layer when only that layer's routing is random, with paired intervals."""
    accuracy = quantity == "accuracy"
    value, low, high = (
        ("accuracy_change", "accuracy_ci_low", "accuracy_ci_high")
        if accuracy
        else ("nll_change", "nll_ci_low", "nll_ci_high")
    )
    data = require(frame, "layer", "intervention", value, low, high, "draws", "n")
    clear = data[high] < 0 if accuracy else data[low] > 0
    data["verdict"] = clear.map({True: "routing matters", False: "no clear effect"})
    form = "+.1%" if accuracy else "+.3f"
    title = "accuracy change" if accuracy else "NLL change (nats)"
    verdicts = ["no clear effect", "routing matters"]
    x = layer_axis(layers)
    y = alt.Y(f"{value}:Q", axis=left_axis(title, form="+.0%" if accuracy else "+.2f"))
    bars = (
        alt.Chart(data)
        .mark_bar(cornerRadius=2)
        .encode(
            x=x,
            y=y,
            color=alt.Color("verdict:N", title=None, scale=alt.Scale(domain=verdicts), legend=key_legend()),
            opacity=alt.Opacity("verdict:N", scale=alt.Scale(domain=verdicts, range=[0.45, 1]), legend=None),
            tooltip=[
                tip("layer:O", "layer"),
                tip("intervention:N", "intervention"),
                tip("verdict:N", "verdict"),
                tip(f"{value}:Q", title, form),
                tip(f"{low}:Q", "95 % from", form),
                tip(f"{high}:Q", "95 % to", form),
                tip("draws:Q", "random draws"),
                tip("n:Q", "questions", ",d"),
            ],
        )
        .add_params(layer_selection())
    )
    interval = (
        alt.Chart(data).mark_rule(color=NEUTRAL, strokeWidth=2).encode(x=x, y=alt.Y(f"{low}:Q"), y2=alt.Y2(f"{high}:Q"))
    )
    zero = zero_line()
    marks = chosen_marks(layers, chosen)
    return stack(bars, interval, zero, marks, selected_outline(layers, layer), height=190)
