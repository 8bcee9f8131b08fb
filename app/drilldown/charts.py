"""The chart of one layer's experts."""

from __future__ import annotations

import altair as alt
import pandas as pd

from app.figures.parts import (
    index_axis,
    key_legend,
    left_axis,
    line_at,
    require,
    stack,
    tip,
)


def expert_bars(frame: pd.DataFrame, *, value: str = "share") -> alt.LayerChart:
    """Load of each expert of one layer, one mark per data set in the order of ``frame``, and the balanced load 1/E."""
    data = require(frame, "expert_index", "dataset", value)
    experts = int(data["expert_index"].max()) + 1
    names = list(dict.fromkeys(data["dataset"]))
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            x=alt.X("expert_index:O", title="expert", axis=index_axis(grid=True)),
            xOffset=alt.XOffset("dataset:N", scale=alt.Scale(domain=names, paddingOuter=0.6)),
            y=alt.Y(f"{value}:Q", scale=alt.Scale(zero=True), axis=left_axis("share of load (line: 1/E)", form=".0%")),
            color=alt.Color("dataset:N", title=None, scale=alt.Scale(domain=names), legend=key_legend()),
            shape=alt.Shape("dataset:N", title=None, scale=alt.Scale(domain=names)),
            tooltip=[
                tip("expert_index:O", "expert"),
                tip("dataset:N", "data set"),
                tip(f"{value}:Q", "share of the load", ".1%"),
            ],
        )
    )
    return stack(line_at(1 / experts, "balanced 1/E"), points, height=190)
