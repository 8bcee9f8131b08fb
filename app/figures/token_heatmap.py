"""The heat map of tokens × layers."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.figures.palette import MARK
from app.figures.parts import (
    index_axis,
    left_axis,
    ramp_legend,
    require,
    stack,
    tip,
)


def token_heatmap(
    frame: pd.DataFrame,
    layers: Sequence[int],
    *,
    value: str,
    title: str,
    domain: Sequence[float] | None = None,
    token: int | None = None,
) -> alt.LayerChart:
    """Token (columns) × layer (rows) of one prompt, coloured by ``value``."""
    data = require(frame, "position", "token", "layer", value)
    scale = alt.Scale(domain=list(domain)) if domain else alt.Scale(zero=False)
    positions = sorted(int(position) for position in data["position"].unique())
    x = alt.X(
        "position:O",
        title="token position",
        scale=alt.Scale(domain=positions),
        axis=index_axis(),
    )
    cells = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=x,
            y=alt.Y(
                "layer:O", scale=alt.Scale(domain=[int(layer) for layer in layers]), axis=left_axis("layer", grid=False)
            ),
            color=alt.Color(
                f"{value}:Q",
                title=title,
                scale=scale,
                legend=ramp_legend(".3~g"),
            ),
            tooltip=[
                tip("position:O", "position"),
                tip("token:N", "token"),
                tip("layer:O", "layer"),
                tip(f"{value}:Q", title, ".3~f"),
            ],
        )
        .add_params(alt.selection_point(name="cell", fields=["position", "layer"], on="click", empty=False))
    )
    outline = None
    if token in positions:
        outline = (
            alt.Chart(pd.DataFrame({"position": [token]}))
            .mark_rect(filled=False, stroke=MARK, strokeWidth=2.5, tooltip=None)
            .encode(x=x, y=alt.YValue(0), y2=alt.Y2Value("height"))
        )
    return stack(cells, outline, height=max(120, 15 * len(layers)))
