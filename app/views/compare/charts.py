"""The charts that only Compare draws."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.figures.parts import (
    layer_axis,
    layer_selection,
    left_axis,
    ramp_legend,
    require,
    selected_outline,
    stack,
    tip,
)


def load_change(frame: pd.DataFrame, layers: Sequence[int], *, layer: int | None = None) -> alt.LayerChart:
    """Layer × expert: change of an expert's share of its layer's load, second run − first run (orange = gained)."""
    data = require(frame, "layer", "expert_index", "change", "share_a", "share_b")
    bound = max(0.01, float(data["change"].abs().max()))
    cells = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=layer_axis(layers),
            y=alt.Y("expert_index:O", axis=left_axis("expert", grid=False)),
            color=alt.Color(
                "change:Q",
                title="change of load share",
                scale=alt.Scale(domain=[-bound, bound], domainMid=0, interpolate="rgb"),
                legend=ramp_legend("+.1%"),
            ),
            tooltip=[
                tip("layer:O", "layer"),
                tip("expert_index:O", "expert"),
                tip("share_a:Q", "share in the first run", ".1%"),
                tip("share_b:Q", "share in the second run", ".1%"),
                tip("change:Q", "change", "+.1%"),
            ],
        )
        .add_params(layer_selection())
    )
    height = min(18 * (int(data["expert_index"].max()) + 1), 480)
    return stack(cells, selected_outline(layers, layer), height=height)
