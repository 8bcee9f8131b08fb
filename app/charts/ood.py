"""Out-of-distribution charts: score distributions, ROC, AUROC with intervals; never flipped, higher = more OoD."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from app.charts.base import require, rule, stack, tip
from app.palette import NEUTRAL, ROLE_LABELS
from vmoer import metrics

OOD_ROLES = ("near-ood", "far-ood")
DASHES = {"in-distribution": [1, 0], "near-ood": [7, 3], "far-ood": [2, 2], "validation": [1, 0]}


def histogram(scores: pd.DataFrame, bins: int = 32, tail: float = 0.99) -> pd.DataFrame:
    """Share of each data set's questions per score bin; one set of edges for all, so that heights compare.

    The last bin also holds the values beyond the ``tail`` quantile of all scores: one far value would otherwise press
    everything else into a single bar. Its upper edge is the true maximum.
    """
    values = scores["value"].to_numpy(dtype=float)
    low, high = float(values.min()), float(np.quantile(values, tail))
    if high <= low:
        high = low + 1.0
    edges = np.linspace(low, high, bins + 1)
    counted = np.append(edges[:-1], max(high, float(values.max())))
    order = {role: number for number, role in enumerate(ROLE_LABELS)}
    rows = []
    sets = scores[["dataset", "role"]].drop_duplicates()
    for dataset, role in sorted(sets.itertuples(index=False, name=None), key=lambda one: (order[one[1]], one[0])):
        group = scores[(scores["dataset"] == dataset) & (scores["role"] == role)]
        counts, _ = np.histogram(group["value"], bins=counted)
        for lower, upper, drawn, count in zip(edges[:-1], counted[1:], edges[1:], counts, strict=True):
            rows.append((dataset, role, lower, upper, drawn, int(count), count / len(group), len(group)))
    return pd.DataFrame(rows, columns=["dataset", "role", "lower", "upper", "drawn_to", "count", "share", "n"])


def roc_points(scores: pd.DataFrame) -> pd.DataFrame:
    """The ROC of every OoD set against the in-distribution set: false- and true-positive rate per threshold."""
    inside = scores.loc[scores["role"] == "in-distribution", "value"].to_numpy(dtype=float)
    parts = []
    outside = scores[scores["role"].isin(OOD_ROLES)]
    for (dataset, role), group in outside.groupby(["dataset", "role"], sort=False):
        false, true = metrics.roc_curve(inside, group["value"].to_numpy(dtype=float))
        parts.append(pd.DataFrame({"dataset": dataset, "role": role, "fpr": false, "tpr": true}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["dataset", "role", "fpr", "tpr"])


def _labels(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str], list[list[int]]]:
    """``frame`` with a ``set`` column ("name · role"), the sets in order of role, and each one's dash pattern."""
    data = frame.copy()
    data["set"] = data["dataset"] + " · " + data["role"].map(ROLE_LABELS)
    order = list(ROLE_LABELS)
    pairs = data[["set", "role"]].drop_duplicates().sort_values("role", key=lambda roles: roles.map(order.index))
    return data, pairs["set"].tolist(), [DASHES[role] for role in pairs["role"]]


def _legend(values: Sequence[str] | None = None, symbol: str = "stroke") -> alt.Legend:
    """One legend look for all charts of this page, drawn at full strength whatever the mark's opacity."""
    shown = {"values": list(values)} if values else {}
    return alt.Legend(
        orient="top",
        columns=1,
        labelLimit=270,
        title=None,
        symbolType=symbol,
        symbolOpacity=1,
        symbolStrokeWidth=2,
        **shown,
    )


def distributions(frame: pd.DataFrame) -> alt.LayerChart:
    """Distribution of a score per data set (share of its questions per bin); further right = more OoD."""
    data, sets, dashes = _labels(require(frame, "dataset", "role", "lower", "upper", "drawn_to", "count", "share", "n"))
    # A step line needs the right edge of the last bin as well.
    last = data.groupby("set", sort=False).tail(1).assign(lower=lambda rows: rows["drawn_to"])
    steps = pd.concat([data, last], ignore_index=True)
    scale = alt.Scale(domain=sets)
    legend = _legend()
    x = alt.X("lower:Q", title="score (further right = more OoD)", scale=alt.Scale(nice=False, zero=False))
    y = alt.Y("share:Q", title="share of questions", stack=None, axis=alt.Axis(format=".0%", tickCount=5))
    colour = alt.Color("set:N", scale=scale, legend=legend)
    area = (
        alt.Chart(steps).mark_area(interpolate="step-after", opacity=0.14, tooltip=None).encode(x=x, y=y, color=colour)
    )
    line = (
        alt.Chart(steps)
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=colour,
            strokeDash=alt.StrokeDash("set:N", scale=alt.Scale(domain=sets, range=dashes), legend=legend),
            tooltip=[
                tip("set:N", "data set"),
                tip("lower:Q", "from", ".4g"),
                tip("upper:Q", "to", ".4g"),
                tip("count:Q", "questions", ",d"),
                tip("share:Q", "share", ".1%"),
                tip("n:Q", "questions in the set", ",d"),
            ],
        )
    )
    return stack(area, line).properties(height=260)


def roc(frame: pd.DataFrame) -> alt.LayerChart:
    """ROC curves of the OoD sets against the in-distribution set, with chance and the 95 % true-positive line."""
    data, sets, dashes = _labels(require(frame, "dataset", "role", "fpr", "tpr"))
    unit = alt.Scale(domain=[0, 1], nice=False)
    x = alt.X(
        "fpr:Q", title="in-distribution called OoD (false-positive rate)", scale=unit, axis=alt.Axis(format=".0%")
    )
    y = alt.Y("tpr:Q", title="OoD found (true-positive rate)", scale=unit, axis=alt.Axis(format=".0%"))
    chance = (
        alt.Chart(pd.DataFrame({"fpr": [0.0, 1.0], "tpr": [0.0, 1.0]}))
        .mark_line(color=NEUTRAL, strokeDash=[4, 4], tooltip=None)
        .encode(x=x, y=y)
    )
    curves = (
        alt.Chart(data)
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=y,
            order=alt.Order("tpr:Q"),
            # OoD sets come after the in-distribution set everywhere, hence the empty first place in the domain.
            color=alt.Color("set:N", scale=alt.Scale(domain=["", *sets]), legend=_legend(sets)),
            strokeDash=alt.StrokeDash(
                "set:N", scale=alt.Scale(domain=["", *sets], range=[[1, 0], *dashes]), legend=None
            ),
            tooltip=[
                tip("set:N", "data set"),
                tip("fpr:Q", "false positives", ".1%"),
                tip("tpr:Q", "true positives", ".1%"),
            ],
        )
    )
    return stack(chance, rule(0.95, "FPR@95TPR is read here", dash=(2, 3)), curves).properties(height=260)


def auroc_forest(frame: pd.DataFrame, *, order: Sequence[str]) -> alt.LayerChart:
    """AUROC with its 95 % interval per score (rows) and OoD set; left of 0.5 the score is inverted."""
    data = require(frame, "label", "dataset", "role", "value", "ci_low", "ci_high", "n", "verdict")
    data, sets, _ = _labels(data)
    y = alt.Y("label:N", sort=list(order), title=None, axis=alt.Axis(labelLimit=180, grid=True))
    offset = alt.YOffset("set:N", scale=alt.Scale(domain=sets, paddingOuter=0.35))
    x = alt.X("value:Q", title="AUROC (0.5 = chance)", scale=alt.Scale(domain=[0, 1]))
    scale = alt.Scale(domain=["", *sets])
    interval = (
        alt.Chart(data)
        .mark_rule(color=NEUTRAL, strokeWidth=2)
        .encode(x=alt.X("ci_low:Q"), x2=alt.X2("ci_high:Q"), y=y, yOffset=offset)
    )
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=65, opacity=1)
        .encode(
            x=x,
            y=y,
            yOffset=offset,
            color=alt.Color("set:N", scale=scale, legend=_legend(sets)),
            shape=alt.Shape("set:N", scale=scale, legend=None),
            tooltip=[
                tip("label:N", "score"),
                tip("set:N", "data set"),
                tip("value:Q", "AUROC", ".3f"),
                tip("ci_low:Q", "95 % from", ".3f"),
                tip("ci_high:Q", "95 % to", ".3f"),
                tip("verdict:N", "verdict"),
                tip("n:Q", "questions, both sets", ",d"),
            ],
        )
    )
    chance = rule(0.5, "chance", horizontal=False)
    return stack(chance, interval, points).properties(height=len(order) * max(26, 13 * len(sets)))
