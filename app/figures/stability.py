"""Stability of routing in depth: spread over tokens, several runs on one scale, and stability against leverage."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from app.figures.palette import MARK, NEUTRAL
from app.figures.parts import (
    SIGNED,
    key_legend,
    layer_selection,
    left_axis,
    require,
    rule,
    stack,
    tip,
    unit_scale,
    zero_line,
)

#: probabilities of the seven quantiles that the store keeps per layer
PROBABILITIES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_GRID = 41
_SMOOTHING = 0.03
_HALF = 0.42
QUADRANTS = ("steady, and it matters", "unstable, and it matters", "steady, harmless", "unstable, harmless")


def instability(jaccard: pd.Series, chance: pd.Series) -> pd.Series:
    """``(1 − J) / (1 − chance)``: 0 = the same experts, 1 = as different as two random sets."""
    return (1 - jaccard) / (1 - chance)


def violin_shapes(frame: pd.DataFrame, layers: Sequence[int]) -> pd.DataFrame:
    """The outline of each layer's violin: columns layer, jaccard, left, right (in units of the layer axis).

    The density comes from the seven stored quantiles, joined by straight lines and smoothed with a Gaussian of width
    0.03; each violin is as wide as its own highest density.
    """
    grid = np.linspace(0, 1, _GRID)
    inner = np.linspace(0, 1, 201)
    parts = []
    for layer, quantiles in zip(frame["layer"], frame["quantiles"], strict=True):
        draws = np.interp(inner, PROBABILITIES, np.asarray(quantiles, dtype=float))
        density = np.exp(-0.5 * ((grid[:, None] - draws) / _SMOOTHING) ** 2).sum(1)
        width = _HALF * density / density.max()
        kept = width > 0.004
        place = list(layers).index(int(layer))
        parts.append(
            pd.DataFrame(
                {
                    "layer": int(layer),
                    "jaccard": grid[kept],
                    "left": place - width[kept],
                    "right": place + width[kept],
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["layer", "jaccard", "left", "right"])


def stability_violins(
    frame: pd.DataFrame, layers: Sequence[int], *, chosen: Sequence[int] = (), layer: int | None = None
) -> alt.LayerChart:
    """Jaccard per layer at one noise level: spread over tokens as violins, mean with interval, threshold and chance.

    The horizontal axis counts the places of ``layers``, which lie exactly below the columns of the heatmap.
    """
    columns = ("layer", "jaccard", "ci_low", "ci_high", "chance", "threshold", "susceptible", "n", "quantiles")
    data = require(frame, *columns)
    shapes = violin_shapes(data, layers)
    data["verdict"] = data["susceptible"].astype(bool).map({True: "susceptible", False: "stable"})
    data["place"] = data["layer"].map(list(map(int, layers)).index)
    data["median"] = data["quantiles"].map(lambda values: float(values[3]))
    data["low"] = data["quantiles"].map(lambda values: float(values[2]))
    data["high"] = data["quantiles"].map(lambda values: float(values[4]))
    data = data.drop(columns="quantiles")
    names = [int(one) for one in layers]
    axis = alt.Axis(
        title="layer (0 = first block)",
        values=list(range(len(names))),
        labelExpr=f"{names}[datum.value]",
        labelOverlap="greedy",
        grid=False,
    )
    scale = alt.Scale(domain=[-0.5, len(names) - 0.5], nice=False, zero=False)
    x = alt.X("place:Q", scale=scale, axis=axis)
    unit = unit_scale()
    y = alt.Y("jaccard:Q", scale=unit, axis=left_axis("Jaccard (1 = same)", form=".1f"))
    violins = (
        alt.Chart(shapes)
        .mark_area(orient="horizontal", color=NEUTRAL, opacity=0.3, tooltip=None)
        .encode(x=alt.X("left:Q", scale=scale, axis=axis), x2=alt.X2("right:Q"), y=y, detail="layer:N")
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
            color=alt.Color("verdict:N", title=None, scale=alt.Scale(domain=verdicts), legend=key_legend()),
            shape=alt.Shape("verdict:N", title=None, scale=alt.Scale(domain=verdicts, range=["circle", "diamond"])),
            tooltip=[
                tip("layer:O", "layer"),
                tip("verdict:N", "verdict"),
                tip("jaccard:Q", "mean Jaccard", ".3f"),
                tip("ci_low:Q", "95 % from", ".3f"),
                tip("ci_high:Q", "95 % to", ".3f"),
                tip("median:Q", "median", ".3f"),
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
    marks = None
    carried = data[data["layer"].isin(list(chosen))]
    if not carried.empty:
        marks = (
            alt.Chart(carried.assign(note="carries a Bayesian router"))
            .mark_point(shape="triangle-up", size=55, filled=True, color=MARK, opacity=1, yOffset=-6)
            .encode(x=x, y=alt.YValue("height"), tooltip=[tip("layer:O", "layer"), tip("note:N", "note")])
        )
    outline = None
    if layer in names:
        place = names.index(int(layer))
        outline = (
            alt.Chart(pd.DataFrame({"from": [place - 0.5], "to": [place + 0.5]}))
            .mark_rect(filled=False, stroke=MARK, strokeWidth=2.5, tooltip=None)
            .encode(x=alt.X("from:Q", scale=scale), x2="to:Q", y=alt.YValue(0), y2=alt.Y2Value("height"))
        )
    dashes = data.assign(left=data["place"] - 0.6 * _HALF, right=data["place"] + 0.6 * _HALF)
    median = (
        alt.Chart(dashes[["left", "right", "median"]])
        .mark_rule(color=NEUTRAL, strokeWidth=2, tooltip=None)
        .encode(x=alt.X("left:Q", scale=scale, axis=axis), x2=alt.X2("right:Q"), y=alt.Y("median:Q"))
    )
    return stack(violins, interval, median, *lines, points, marks, outline, height=230)


def quadrant_table(
    stability: pd.DataFrame, leverage: pd.DataFrame, *, quantity: str, chosen: Sequence[int] = ()
) -> pd.DataFrame:
    """Per layer its instability and what random routing costs, and the quadrant both put it in.

    ``cost`` is the loss of accuracy or the rise of NLL (nats). Unstable = susceptible by the rule; it matters = the
    95 % interval of the cost lies above 0.
    """
    sign = -1.0 if quantity == "accuracy" else 1.0
    found = leverage.assign(cost=sign * leverage[f"{quantity}_change"])
    ends = sorted([f"{quantity}_ci_low", f"{quantity}_ci_high"], reverse=quantity != "accuracy")
    found["cost_low"], found["cost_high"] = sign * found[ends[0]], sign * found[ends[1]]
    rows = stability.merge(found[["layer", "cost", "cost_low", "cost_high", "draws"]], on="layer")
    rows["instability"] = instability(rows["jaccard"], rows["chance"])
    rows["line"] = instability(rows["threshold"], rows["chance"])
    unstable, matters = rows["susceptible"].astype(bool), rows["cost_low"] > 0
    rows["quadrant"] = [QUADRANTS[2 * (not high) + bool(low)] for low, high in zip(unstable, matters, strict=True)]
    rows["router"] = rows["layer"].isin(list(chosen)).map({True: "Bayesian router", False: "native router"})
    columns = ["layer", "router", "instability", "line", "jaccard", "susceptible", "cost", "cost_low", "cost_high"]
    return rows[[*columns, "quadrant", "n", "draws"]].reset_index(drop=True)


def quadrant(frame: pd.DataFrame, *, title: str, percent: bool, layer: int | None = None) -> alt.LayerChart:
    """Each layer's instability (right = unstable) against its leverage (up = routing matters), labelled by number."""
    columns = ("layer", "router", "instability", "line", "cost", "cost_low", "cost_high", "quadrant", "n")
    data = require(frame, *columns)
    form = "+.1%" if percent else "+.3f"
    widest = max(float(data["instability"].max()), float(data["line"].max()))
    scale = alt.Scale(domain=[0, 1.12 * widest], nice=False)
    x = alt.X("instability:Q", title="instability (0 = same experts, 1 = as two random sets)", scale=scale)
    y = alt.Y("cost:Q", title=title, axis=alt.Axis(format="+.0%" if percent else "+.2f", labelExpr=SIGNED))
    shapes = alt.Scale(domain=list(QUADRANTS), range=["circle", "triangle-up", "circle", "diamond"])
    interval = (
        alt.Chart(data)
        .mark_rule(color=NEUTRAL, opacity=0.6)
        .encode(x=x, y=alt.Y("cost_low:Q", title=title), y2=alt.Y2("cost_high:Q"))
    )
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=95, opacity=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "quadrant:N",
                title=None,
                scale=alt.Scale(domain=list(QUADRANTS)),
                legend=key_legend(2),
            ),
            shape=alt.Shape("quadrant:N", title=None, scale=shapes),
            tooltip=[
                tip("layer:O", "layer"),
                tip("router:N", "in this run"),
                tip("quadrant:N", "verdict"),
                tip("instability:Q", "instability", ".3f"),
                tip("cost:Q", title, form),
                tip("cost_low:Q", "95 % from", form),
                tip("cost_high:Q", "95 % to", form),
            ],
        )
        .add_params(layer_selection())
    )
    labels = alt.Chart(data).mark_text(dx=9, dy=-8, fontSize=11, color=NEUTRAL).encode(x=x, y=y, text="layer:O")
    zero = zero_line()
    line = rule(float(data["line"].mean()), "susceptible to the right", horizontal=False)
    ring = None
    if layer in set(data["layer"]):
        ring = (
            alt.Chart(data[data["layer"] == layer])
            .mark_point(filled=False, size=260, stroke=MARK, strokeWidth=2.5, opacity=1, tooltip=None)
            .encode(x=x, y=y)
        )
    return stack(zero, line, interval, points, labels, ring, height=300)
