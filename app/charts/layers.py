"""Charts over layers: stability of routing under noise, leverage of routing, expert load; one shared layer axis."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.charts.base import (
    chosen_marks,
    layer_axis,
    layer_selection,
    left_axis,
    require,
    rule,
    selected_outline,
    stack,
    tip,
)
from app.palette import NEUTRAL


def stability_heatmap(
    frame: pd.DataFrame, layers: Sequence[int], *, layer: int | None = None, gamma: float | None = None
) -> alt.LayerChart:
    """Layer × noise level, coloured by mean Jaccard (1 = same experts); a dot marks susceptible cells."""
    columns = ("layer", "gamma", "jaccard", "ci_low", "ci_high", "chance", "threshold", "susceptible", "n")
    data = require(frame, *columns)
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
                "jaccard:Q",
                title="mean Jaccard (1 = same experts, low = unstable)",
                scale=alt.Scale(domain=[0, 1]),
                legend=alt.Legend(orient="top", gradientLength=180, titleLimit=320, format=".1f"),
            ),
            tooltip=[
                tip("layer:O", "layer"),
                tip("level:O", "noise γ"),
                tip("jaccard:Q", "mean Jaccard", ".3f"),
                tip("ci_low:Q", "95 % from", ".3f"),
                tip("ci_high:Q", "95 % to", ".3f"),
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
    return stack(cells, dots, level, selected_outline(layers, layer)).properties(height=height)


def stability_profile(
    frame: pd.DataFrame, layers: Sequence[int], *, chosen: Sequence[int] = (), layer: int | None = None
) -> alt.LayerChart:
    """Mean Jaccard per layer at one noise level, with its interval, its spread over tokens and the threshold."""
    data = require(
        frame, "layer", "jaccard", "ci_low", "ci_high", "chance", "threshold", "susceptible", "n", "quantiles"
    )
    data["verdict"] = data["susceptible"].map({True: "susceptible", False: "stable"})
    # quantiles: 0, 5, 25, 50, 75, 95, 100 %
    data["low"] = data["quantiles"].map(lambda values: float(values[2]))
    data["high"] = data["quantiles"].map(lambda values: float(values[4]))
    data = data.drop(columns="quantiles")
    x = layer_axis(layers)
    axis = left_axis("Jaccard (1 = same)", form=".1f")
    y = alt.Y("jaccard:Q", scale=alt.Scale(domain=[0, 1]), axis=axis)
    spread = (
        alt.Chart(data)
        .mark_bar(color=NEUTRAL, opacity=0.22, cornerRadius=2)
        .encode(x=x, y=alt.Y("low:Q", scale=alt.Scale(domain=[0, 1]), axis=axis), y2=alt.Y2("high:Q"))
    )
    interval = (
        alt.Chart(data).mark_rule(color=NEUTRAL, strokeWidth=2).encode(x=x, y=alt.Y("ci_low:Q"), y2=alt.Y2("ci_high:Q"))
    )
    verdicts = ["stable", "susceptible"]
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color("verdict:N", title=None, scale=alt.Scale(domain=verdicts), legend=alt.Legend(orient="top")),
            shape=alt.Shape("verdict:N", title=None, scale=alt.Scale(domain=verdicts, range=["circle", "diamond"])),
            tooltip=[
                tip("layer:O", "layer"),
                tip("verdict:N", "verdict"),
                tip("jaccard:Q", "mean Jaccard", ".3f"),
                tip("ci_low:Q", "95 % from", ".3f"),
                tip("ci_high:Q", "95 % to", ".3f"),
                tip("low:Q", "25 % of tokens below", ".3f"),
                tip("high:Q", "25 % of tokens above", ".3f"),
                tip("n:Q", "tokens", ",d"),
            ],
        )
        .add_params(layer_selection())
    )
    lines = [
        rule(float(data["threshold"].mean()), "susceptible below this line", below=True),
        rule(float(data["chance"].mean()), "two random sets", dash=(2, 3)),
    ]
    marks = chosen_marks(layers, chosen)
    return stack(spread, interval, *lines, points, marks, selected_outline(layers, layer)).properties(height=210)


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
            color=alt.Color("verdict:N", title=None, scale=alt.Scale(domain=verdicts), legend=alt.Legend(orient="top")),
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
    zero = alt.Chart(pd.DataFrame({"at": [0.0]})).mark_rule(color=NEUTRAL).encode(y=alt.Y("at:Q"))
    marks = chosen_marks(layers, chosen)
    return stack(bars, interval, zero, marks, selected_outline(layers, layer)).properties(height=190)


def load_heatmap(
    frame: pd.DataFrame, layers: Sequence[int], *, value: str = "share", layer: int | None = None
) -> alt.LayerChart:
    """Layer × expert, coloured by the expert's load divided by the balanced load 1/E (1 = balanced)."""
    data = require(frame, "layer", "expert_index", value, "n_tokens")
    experts = int(data["expert_index"].max()) + 1
    data["relative"] = data[value] * experts
    top = max(2.0, float(data["relative"].quantile(0.99)))
    cells = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=layer_axis(layers),
            y=alt.Y("expert_index:O", axis=left_axis("expert", grid=False)),
            color=alt.Color(
                "relative:Q",
                title="load ÷ balanced (1/E)",
                scale=alt.Scale(domain=[0, top], domainMid=1, clamp=True),
                legend=alt.Legend(orient="top", gradientLength=180, titleLimit=320, format=".1f"),
            ),
            tooltip=[
                tip("layer:O", "layer"),
                tip("expert_index:O", "expert"),
                tip(f"{value}:Q", "share of the load", ".2%"),
                tip("relative:Q", "times the balanced load", ".2f"),
                tip("n_tokens:Q", "tokens", ",d"),
            ],
        )
        .add_params(layer_selection())
    )
    height = min(18 * experts, 560)
    return stack(cells, selected_outline(layers, layer)).properties(height=height)


def expert_bars(frame: pd.DataFrame, *, value: str = "share") -> alt.LayerChart:
    """Load of each expert of one layer, one mark per data set, with the balanced load 1/E as a line."""
    data = require(frame, "expert_index", "dataset", value)
    experts = int(data["expert_index"].max()) + 1
    names = sorted(data["dataset"].unique())
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            x=alt.X("expert_index:O", title="expert", axis=alt.Axis(labelAngle=0, labelOverlap="greedy", grid=True)),
            xOffset=alt.XOffset("dataset:N", scale=alt.Scale(domain=names, paddingOuter=0.6)),
            y=alt.Y(f"{value}:Q", scale=alt.Scale(zero=True), axis=left_axis("share of load", form=".0%")),
            color=alt.Color("dataset:N", title=None, scale=alt.Scale(domain=names), legend=alt.Legend(orient="top")),
            shape=alt.Shape("dataset:N", title=None, scale=alt.Scale(domain=names)),
            tooltip=[
                tip("expert_index:O", "expert"),
                tip("dataset:N", "data set"),
                tip(f"{value}:Q", "share of the load", ".2%"),
            ],
        )
    )
    return stack(rule(1 / experts, "balanced 1/E"), points).properties(height=190)
