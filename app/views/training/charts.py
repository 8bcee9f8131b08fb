"""How routers were trained: losses over steps with the best step marked, and one quantity per layer over steps."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.figures.palette import MARK
from app.figures.parts import index_axis, key_legend, layer_axis, left_axis, ramp_legend, require, stack, tip
from vmoer.methods import kept_step

LOSSES = {"loss": "loss (task + β · KL)", "task_loss": "task loss", "validation_nll": "validation NLL"}
_DASHES = {"loss": [7, 3], "task_loss": [2, 2], "validation_nll": [1, 0]}


def best_step(log: pd.DataFrame, method: str) -> tuple[int, float] | None:
    """The step whose weights were kept and its validation NLL; ``None`` where none was logged."""
    checks = log[log["quantity"] == "validation_nll"].set_index("step")["value"]
    if checks.empty:
        return None
    said = log.loc[log["quantity"] == "kept_step", "step"]
    step = int(said.iloc[0]) if len(said) else kept_step(list(zip(checks.index, checks, strict=True)), method)
    return step, float(checks.get(step, float("nan")))


def losses(frame: pd.DataFrame, *, best: int | None = None) -> alt.LayerChart:
    """Losses over optimiser steps (lower is better); the vertical line is the step whose routers were kept."""
    data = require(frame, "step", "quantity", "value")
    data = data[data["quantity"].isin(list(LOSSES))]
    names = [name for name in LOSSES if name in set(data["quantity"])]
    data = data.assign(curve=data["quantity"].map(LOSSES))
    scale = alt.Scale(domain=[LOSSES[name] for name in names])
    dashes = alt.Scale(domain=scale.domain, range=[_DASHES[name] for name in names])
    legend = key_legend(2, lines=True)
    x = alt.X("step:Q", title="optimiser step", axis=alt.Axis(tickMinStep=1, format=",d"))
    lines = (
        alt.Chart(data)
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=alt.Y("value:Q", scale=alt.Scale(zero=False), axis=left_axis("nats", form=".2f")),
            color=alt.Color("curve:N", title=None, scale=scale, legend=legend),
            strokeDash=alt.StrokeDash("curve:N", title=None, scale=dashes, legend=legend),
        )
    )
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=26, opacity=1)
        .encode(
            x=x,
            y="value:Q",
            color=alt.Color("curve:N", scale=scale, legend=None),
            tooltip=[tip("curve:N", "curve"), tip("step:Q", "step", ",d"), tip("value:Q", "nats", ".4f")],
        )
    )
    kept = None
    if best is not None:
        kept = (
            alt.Chart(pd.DataFrame({"step": [best], "note": ["these weights were kept"]}))
            .mark_rule(color=MARK, strokeWidth=2)
            .encode(x=x, tooltip=[tip("note:N", "note"), tip("step:Q", "step", ",d")])
        )
    return stack(kept, lines, points, height=280)


def prior_distance(frame: pd.DataFrame, limit: float) -> alt.LayerChart:
    """KL divergence to the prior per layer; below the line in every layer, a posterior counts as its prior."""
    data = require(frame, "layer", "kl", "width", "between")
    points = (
        alt.Chart(data)
        .mark_bar(cornerRadius=2)
        .encode(
            x=layer_axis(data["layer"].tolist()),
            y=alt.Y("kl:Q", axis=left_axis("KL, nats per token", form=".2~g")),
            tooltip=[
                tip("layer:O", "layer"),
                tip("kl:Q", "KL to the prior, nats per token", ".3~g"),
                tip("width:Q", "σ ÷ prior", ".3~g"),
                tip("between:Q", "variation of the variance between tokens", ".2%"),
            ],
        )
    )
    line = alt.Chart(pd.DataFrame({"limit": [limit]})).mark_rule(color=MARK, strokeDash=[4, 3]).encode(y="limit:Q")
    return stack(points, line, height=190)


def per_layer(frame: pd.DataFrame, layers: Sequence[int], *, title: str, form: str = ".3~g") -> alt.LayerChart:
    """Optimiser step × layer, coloured by a quantity that was logged per layer."""
    data = require(frame, "step", "layer", "value")
    steps = sorted(int(step) for step in data["step"].unique())
    cells = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=alt.X(
                "step:O",
                title="optimiser step",
                scale=alt.Scale(domain=steps),
                axis=index_axis(),
            ),
            y=alt.Y(
                "layer:O", scale=alt.Scale(domain=[int(one) for one in layers]), axis=left_axis("layer", grid=False)
            ),
            color=alt.Color(
                "value:Q",
                title=title,
                scale=alt.Scale(zero=False, nice=False),
                legend=ramp_legend(form),
            ),
            tooltip=[tip("step:O", "step"), tip("layer:O", "layer"), tip("value:Q", title, ".4~g")],
        )
    )
    return stack(cells, height=max(60, 18 * len(layers)))
