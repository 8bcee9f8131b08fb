"""Charts of experts: load per layer, load of one layer per data set, preference against what was applied, company."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from app.figures.palette import MARK
from app.figures.parts import (
    index_axis,
    key_legend,
    layer_axis,
    left_axis,
    line_at,
    ramp_legend,
    require,
    selected_outline,
    stack,
    tip,
)

#: what a share of a layer may be counted in, and how it is called
CHOICES = {
    "native_share": "preferred: the native router's choice",
    "share": "applied: tokens",
    "gate_share": "applied: gate weight",
}


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
                scale=alt.Scale(domain=[0, top], domainMid=1, clamp=True, interpolate="rgb"),
                legend=ramp_legend(".1f"),
            ),
            tooltip=[
                tip("layer:O", "layer"),
                tip("expert_index:O", "expert"),
                tip(f"{value}:Q", "share of the load", ".1%"),
                tip("relative:Q", "times the balanced load", ".2f"),
                tip("n_tokens:Q", "tokens", ",d"),
            ],
        )
        .add_params(alt.selection_point(name="cell", fields=["layer", "expert_index"], on="click", empty=False))
    )
    height = min(18 * experts, 560)
    return stack(cells, selected_outline(layers, layer), height=height)


def choice_dots(frame: pd.DataFrame, *, n_experts: int, expert: int | None = None) -> alt.LayerChart:
    """Per expert of one layer: how often it was preferred, how often applied, and its share of the gate weight."""
    data = require(frame, "expert_index", *CHOICES)
    long = data.melt("expert_index", var_name="counted", value_name="fraction")
    long["counted"] = long["counted"].map(CHOICES)
    names = list(CHOICES.values())
    x = alt.X(
        "expert_index:O",
        title="expert",
        scale=alt.Scale(domain=list(range(n_experts))),
        axis=index_axis(grid=True),
    )
    points = (
        alt.Chart(long)
        .mark_point(filled=True, size=55, opacity=0.9)
        .encode(
            x=x,
            xOffset=alt.XOffset("counted:N", scale=alt.Scale(domain=names, paddingOuter=0.6)),
            y=alt.Y(
                "fraction:Q", scale=alt.Scale(zero=True), axis=left_axis("share of the layer (line: 1/E)", form=".0%")
            ),
            color=alt.Color(
                "counted:N",
                title=None,
                scale=alt.Scale(domain=names),
                legend=key_legend(1),
            ),
            shape=alt.Shape("counted:N", title=None, scale=alt.Scale(domain=names)),
            tooltip=[
                tip("expert_index:O", "expert"),
                tip("counted:N", "counted in"),
                tip("fraction:Q", "share", ".1%"),
            ],
        )
        .add_params(alt.selection_point(name="expert", fields=["expert_index"], on="click", empty=False))
    )
    outline = None
    if expert is not None and 0 <= expert < n_experts:
        outline = (
            alt.Chart(pd.DataFrame({"expert_index": [expert]}))
            .mark_rect(filled=False, stroke=MARK, strokeWidth=2.5, tooltip=None)
            # the whole band; beside a chart with offsets it would be as wide as one of them
            .encode(
                x=x.bandPosition(0),
                x2=alt.X2("expert_index", bandPosition=1),
                y=alt.YValue(0),
                y2=alt.Y2Value("height"),
            )
        )
    return stack(line_at(1 / n_experts, "balanced 1/E"), points, outline, height=210)


def company(frame: pd.DataFrame, *, n_experts: int, expert: int | None = None) -> alt.LayerChart:
    """Expert × expert: how much more often two serve one token than if they were independent (1), on a log scale."""
    data = require(frame, "expert_a", "expert_b", "n", "n_a", "given_a", "lift", "n_tokens")
    data["log_lift"] = np.log2(data["lift"])
    bound = max(1.0, float(data["log_lift"].abs().quantile(0.99)))
    experts = list(range(n_experts))
    x = alt.X(
        "expert_b:O",
        title="… also by expert",
        scale=alt.Scale(domain=experts),
        axis=index_axis(),
    )
    y = alt.Y(
        "expert_a:O",
        title="tokens served by expert …",
        scale=alt.Scale(domain=experts),
        axis=left_axis("tokens served by expert …", grid=False),
    )
    cells = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "log_lift:Q",
                title="log2 of together ÷ by chance",
                scale=alt.Scale(domain=[-bound, bound], domainMid=0, clamp=True, interpolate="rgb"),
                legend=ramp_legend("+.1f"),
            ),
            tooltip=[
                tip("expert_a:O", "expert"),
                tip("expert_b:O", "with expert"),
                tip("n:Q", "tokens with both", ",d"),
                tip("given_a:Q", "of the first one's tokens", ".1%"),
                tip("lift:Q", "times as often as if independent", ".2f"),
                tip("n_tokens:Q", "tokens read", ",d"),
            ],
        )
        .add_params(alt.selection_point(name="expert", fields=["expert_a"], on="click", empty=False))
    )
    outline = None
    if expert in experts:
        outline = (
            alt.Chart(pd.DataFrame({"expert_a": [expert]}))
            .mark_rect(filled=False, stroke=MARK, strokeWidth=2.5, tooltip=None)
            .encode(y=y, x=alt.XValue(0), x2=alt.X2Value("width"))
        )
    return stack(cells, outline, height=min(max(20 * n_experts, 160), 560))
