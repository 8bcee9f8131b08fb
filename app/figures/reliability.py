"""What a run claims against what it gets right: reliability diagrams, numbers with intervals, risk over coverage."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from app.figures.palette import NEUTRAL
from app.figures.parts import key_legend, require, stack, tip, unit_scale
from vmoer import metrics

SIDE = 216
FEW = 30  # bins with fewer examples are drawn hollow: their accuracy is mostly noise
DIRECTIONS = ("over-confident", "under-confident")


def direction(gap: float) -> str:
    """Which way a calibration gap (confidence − accuracy) points, in a word."""
    return DIRECTIONS[0] if gap > 0 else DIRECTIONS[1]


def reliability_diagram(bins: pd.DataFrame, *, top: float | None = None) -> alt.VConcatChart:
    """One reliability diagram (accuracy over confidence per bin) above the number of examples in each bin.

    The vertical bar from the diagonal to the point is the bin's gap, orange where the run is over-confident. Bins
    without examples are crossed out rather than left out, bins with fewer than 30 are hollow. ``top`` fixes the axis
    of the counts, so that small multiples compare.
    """
    columns = ("bin", "lower", "upper", "n", "mean_confidence", "accuracy", "ci_low", "ci_high")
    data = require(bins, *columns)
    data["middle"] = (data["lower"] + data["upper"]) / 2
    empty = data[data["n"] == 0]
    full = data[data["n"] > 0].copy()
    full["gap"] = full["mean_confidence"] - full["accuracy"]
    full["direction"] = full["gap"].map(direction)
    full["size"] = (full["n"] < FEW).map({True: f"under {FEW} examples", False: f"{FEW} or more"})
    unit = unit_scale()
    x_axis = alt.Axis(format=".0%", tickCount=6, grid=True, labelFlush=True)
    x = alt.X("mean_confidence:Q", title=None, scale=unit, axis=alt.Axis(labels=False, tickCount=6, title=None))
    y = alt.Y("accuracy:Q", title="accuracy", scale=unit, axis=alt.Axis(format=".0%", tickCount=6, minExtent=42))
    colour = alt.Color("direction:N", title=None, scale=alt.Scale(domain=list(DIRECTIONS)[::-1]), legend=None)
    tooltip = [
        tip("lower:Q", "confidence from", ".1%"),
        tip("upper:Q", "to", ".1%"),
        tip("n:Q", "examples", ",d"),
        tip("mean_confidence:Q", "mean confidence", ".1%"),
        tip("accuracy:Q", "accuracy", ".1%"),
        tip("ci_low:Q", "95 % from", ".1%"),
        tip("ci_high:Q", "95 % to", ".1%"),
        tip("gap:Q", "confidence − accuracy", "+.1%"),
        tip("direction:N", "direction"),
    ]
    diagonal = (
        alt.Chart(pd.DataFrame({"mean_confidence": [0.0, 1.0], "accuracy": [0.0, 1.0]}))
        .mark_line(color=NEUTRAL, strokeDash=[4, 4], tooltip=None)
        .encode(x=x, y=y)
    )
    gaps = (
        alt.Chart(full)
        .mark_rule(strokeWidth=7, opacity=0.45)
        .encode(x=x, y=alt.Y("mean_confidence:Q"), y2=alt.Y2("accuracy:Q"), color=colour)
    )
    interval = (
        alt.Chart(full)
        .mark_rule(color=NEUTRAL, strokeWidth=1.5)
        .encode(x=x, y=alt.Y("ci_low:Q"), y2=alt.Y2("ci_high:Q"))
    )
    many = full[full["n"] >= FEW]
    few = full[full["n"] < FEW]
    solid = alt.Chart(many).mark_point(filled=True, size=55, opacity=1).encode(x=x, y=y, color=colour, tooltip=tooltip)
    hollow = (
        alt.Chart(few)
        .mark_point(filled=False, size=45, strokeWidth=1.8, opacity=1)
        .encode(x=x, y=y, color=colour, tooltip=tooltip)
    )
    crosses = (
        alt.Chart(empty)
        .mark_text(text="×", color=NEUTRAL, fontSize=12, dy=-6)
        .encode(
            x=alt.X("middle:Q", scale=unit),
            y=alt.YDatum(0),
            tooltip=[tip("lower:Q", "no examples from", ".1%"), tip("upper:Q", "to", ".1%")],
        )
    )
    diagram = stack(diagonal, gaps, interval, solid, hollow, crosses, width=SIDE, height=SIDE)
    counts = (
        alt.Chart(full)
        .mark_rect(color=NEUTRAL, opacity=0.75)
        .encode(
            x=alt.X("lower:Q", title="confidence", scale=unit, axis=x_axis),
            y2=alt.Y2Datum(0),
            x2=alt.X2("upper:Q"),
            y=alt.Y(
                "n:Q",
                title="examples",
                axis=alt.Axis(tickCount=2, minExtent=42, format="~s"),
                scale=alt.Scale(domain=[0, top]) if top else alt.Undefined,
            ),
            tooltip=[
                tip("lower:Q", "confidence from", ".1%"),
                tip("upper:Q", "to", ".1%"),
                tip("n:Q", "examples", ",d"),
            ],
        )
        .properties(width=SIDE, height=52)
    )
    return alt.vconcat(diagram, counts, spacing=6)


CURVE_POINTS = 300


def risk_coverage_points(predictions: pd.DataFrame, run: str) -> pd.DataFrame:
    """The risk–coverage curve of one run, surest answers (lowest entropy) first, thinned to 300 points.

    Columns: run, coverage (share of questions answered), risk (error rate among them), answered, n.
    """
    entropy = predictions["predictive_entropy"].to_numpy(dtype=float)
    coverage, risk = metrics.risk_coverage(entropy, ~predictions["correct"].to_numpy(dtype=bool))
    kept = np.unique(np.linspace(0, len(coverage) - 1, CURVE_POINTS).round().astype(int))
    answered = np.round(coverage[kept] * len(entropy)).astype(int)
    columns = {"run": run, "coverage": coverage[kept], "risk": risk[kept], "answered": answered, "n": len(entropy)}
    return pd.DataFrame(columns)


def risk_coverage(frame: pd.DataFrame, *, order: Sequence[str]) -> alt.LayerChart:
    """Error rate among the surest share of answers, one line per run; lower is better, the right end is its error."""
    data = require(frame, "run", "coverage", "risk", "answered", "n")
    dashes = [[1, 0], [7, 3], [2, 2], [9, 2, 2, 2], [4, 4], [12, 3]]
    names = list(order)
    scale = alt.Scale(domain=names)
    legend = key_legend(1, lines=True)
    legend["labelLimit"] = {"expr": "max(150, width - 60)"}  # names of runs are long where many are alike
    lines = (
        alt.Chart(data)
        .mark_line(strokeWidth=2, interpolate="step-before")
        .encode(
            x=alt.X(
                "coverage:Q",
                title="coverage (surest share of the answers)",
                scale=unit_scale(),
                axis=alt.Axis(format=".0%"),
            ),
            y=alt.Y("risk:Q", title="risk (error rate among them)", axis=alt.Axis(format=".0%")),
            color=alt.Color("run:N", scale=scale, legend=legend),
            strokeDash=alt.StrokeDash(
                "run:N",
                scale=alt.Scale(domain=names, range=[dashes[i % len(dashes)] for i in range(len(names))]),
                legend=legend,
            ),
            tooltip=[
                tip("run:N", "run"),
                tip("coverage:Q", "coverage", ".1%"),
                tip("risk:Q", "risk", ".1%"),
                tip("answered:Q", "answered", ",d"),
                tip("n:Q", "questions", ",d"),
            ],
        )
    )
    return stack(lines, height=280)
