"""The bars of what random routing costs each layer."""

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
    require,
    selected_outline,
    stack,
    tip,
    zero_line,
)


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
