"""Out-of-distribution charts: score distributions, ROC, AUROC with intervals; never flipped, higher = more OoD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from app.figures.auroc import OOD_ROLES, set_labels
from app.figures.palette import NEUTRAL, ROLE_LABELS, WORSE
from app.figures.parts import key_legend, ramp_legend, require, rule, stack, tip, unit_scale
from vmoer import metrics


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


def pr_points(scores: pd.DataFrame) -> pd.DataFrame:
    """Precision over recall of every OoD set (the positives) against the in-distribution set, per threshold.

    Columns: dataset, role, recall, precision, base (precision of a score that knows nothing: the OoD share).
    """
    inside = scores.loc[scores["role"] == "in-distribution", "value"].to_numpy(dtype=float)
    parts = []
    outside = scores[scores["role"].isin(OOD_ROLES)]
    for (dataset, role), group in outside.groupby(["dataset", "role"], sort=False):
        false, true = metrics.roc_curve(inside, group["value"].to_numpy(dtype=float))
        found, wrong = true * len(group), false * len(inside)
        kept = found + wrong > 0
        precision = found[kept] / (found[kept] + wrong[kept])
        base = len(group) / (len(group) + len(inside))
        parts.append(
            pd.DataFrame({"dataset": dataset, "role": role, "recall": true[kept], "precision": precision, "base": base})
        )
    columns = ["dataset", "role", "recall", "precision", "base"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def distributions(frame: pd.DataFrame) -> alt.LayerChart:
    """Distribution of a score per data set (share of its questions per bin); further right = more OoD."""
    data, sets, dashes = set_labels(
        require(frame, "dataset", "role", "lower", "upper", "drawn_to", "count", "share", "n")
    )
    # A step line needs the right edge of the last bin as well.
    last = data.groupby("set", sort=False).tail(1).assign(lower=lambda rows: rows["drawn_to"])
    steps = pd.concat([data, last], ignore_index=True)
    scale = alt.Scale(domain=sets)
    legend = key_legend(1, lines=True)
    # a long label at the end is left out rather than cut off
    axis = alt.Axis(labelBound=4)
    x = alt.X("lower:Q", title="score (further right = more OoD)", scale=alt.Scale(nice=False, zero=False), axis=axis)
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
    return stack(area, line, height=260)


def roc(frame: pd.DataFrame) -> alt.LayerChart:
    """ROC curves of the OoD sets against the in-distribution set, with chance and the 95 % true-positive line."""
    data, sets, dashes = set_labels(require(frame, "dataset", "role", "fpr", "tpr"))
    unit = unit_scale()
    x = alt.X("fpr:Q", title="in-distribution called OoD (FPR)", scale=unit, axis=alt.Axis(format=".0%"))
    y = alt.Y("tpr:Q", title="OoD found (TPR)", scale=unit, axis=alt.Axis(format=".0%"))
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
            color=alt.Color(
                "set:N", scale=alt.Scale(domain=["", *sets]), legend=key_legend(1, lines=True, values=sets)
            ),
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
    return stack(chance, rule(0.95, "FPR@95TPR is read here", dash=(2, 3)), curves, height=260)


def precision_recall(frame: pd.DataFrame) -> alt.LayerChart:
    """Precision over recall of the OoD sets; the dotted lines are what a score that knows nothing reaches."""
    data, sets, dashes = set_labels(require(frame, "dataset", "role", "recall", "precision", "base"))
    unit = unit_scale()
    colour = alt.Color("set:N", scale=alt.Scale(domain=["", *sets]), legend=key_legend(1, lines=True, values=sets))
    y = alt.Y("precision:Q", title="precision (of those called OoD)", scale=unit, axis=alt.Axis(format=".0%"))
    curves = (
        alt.Chart(data)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("recall:Q", title="OoD found (recall)", scale=unit, axis=alt.Axis(format=".0%")),
            y=y,
            order=alt.Order("recall:Q"),
            color=colour,
            strokeDash=alt.StrokeDash(
                "set:N", scale=alt.Scale(domain=["", *sets], range=[[1, 0], *dashes]), legend=None
            ),
            tooltip=[
                tip("set:N", "data set"),
                tip("recall:Q", "recall", ".1%"),
                tip("precision:Q", "precision", ".1%"),
                tip("base:Q", "without any knowledge", ".1%"),
            ],
        )
    )
    bases = data.drop_duplicates("set")[["set", "base"]]
    chance = (
        alt.Chart(bases)
        .mark_rule(strokeDash=[2, 3], strokeWidth=1.5)
        .encode(y=alt.Y("base:Q"), color=colour, tooltip=[tip("set:N", "data set"), tip("base:Q", "OoD share", ".1%")])
    )
    return stack(chance, curves, height=260)


def auroc_matrix(frame: pd.DataFrame, *, order: Sequence[str]) -> alt.LayerChart:
    """AUROC as score (rows) × OoD set (columns), blue to orange around 0.5; a value below 0.5 carries its badge."""
    data, sets, _ = set_labels(require(frame, "label", "dataset", "role", "value", "ci_low", "ci_high", "n", "verdict"))
    data["badge"] = (data["value"] < 0.5).map({True: "▼ INVERTED", False: ""})
    # The set above its role and the badge below its value, so that three columns fit a phone; four are drawn smaller.
    narrow = f"width < {68 * len(sets)}"

    def size(wide: float, small: float) -> dict[str, str]:
        return {"expr": f"{narrow} ? {small} : {wide}"}

    axis = alt.Axis(
        labelAngle=0,
        labelExpr="split(datum.label, ' · ')",
        labelLimit={"expr": f"{narrow} ? width / {len(sets)} - 3 : 110"},
        labelFontSize=size(12, 9),
        labelOverlap=False,
        # both lines of a label above the plot, in files too
        labelPadding=18,
        domain=False,
        ticks=False,
        orient="top",
        grid=False,
    )
    x = alt.X("set:N", title=None, sort=sets, axis=axis)
    y = alt.Y("label:N", sort=list(order), title=None, axis=alt.Axis(labelLimit=200, grid=False))
    base = alt.Chart(data).encode(x=x, y=y)
    cells = base.mark_square(
        size=size(300, 80), opacity=1, xOffset=size(-30, -16), stroke=NEUTRAL, strokeWidth=0.5
    ).encode(
        color=alt.Color(
            "value:Q",
            title="AUROC (0.5 = chance)",
            scale=alt.Scale(domain=[0, 1], domainMid=0.5, interpolate="rgb"),
            legend=ramp_legend(".1f", orient="bottom"),
        ),
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
    # Beside the colour rather than on it: the ends of the scale are dark in one theme and light in the other.
    above = alt.Chart(data[data["value"] >= 0.5]).encode(x=x, y=y)
    inverted = alt.Chart(data[data["value"] < 0.5]).encode(x=x, y=y)
    number = alt.Text("value:Q", format=".2f")
    look: dict[str, Any] = {"align": "left", "dx": size(-16, -9), "fontWeight": "bold"}
    values = above.mark_text(fontSize=size(13, 11), color=NEUTRAL, **look).encode(text=number)
    lower = inverted.mark_text(dy=-6, fontSize=size(13, 11), color=NEUTRAL, **look).encode(text=number)
    badge = {"expr": f"{narrow} ? '▼' : datum.badge"}
    badges = inverted.mark_text(dy=7, fontSize=10, color=WORSE, text=badge, **look)
    texts = (values, lower, badges)
    return stack(cells, *texts, height=34 * len(order))


def matched_dots(frame: pd.DataFrame) -> alt.LayerChart:
    """AUROC per OoD set: all questions, only length-matched ones, and prompt length alone as the score."""
    data, sets, _ = set_labels(require(frame, "dataset", "role", "what", "value", "ci_low", "ci_high", "n"))
    kinds = list(dict.fromkeys(data["what"]))
    y = alt.Y("set:N", sort=sets, title=None, axis=alt.Axis(labelLimit=230, grid=True))
    offset = alt.YOffset("what:N", scale=alt.Scale(domain=kinds, paddingOuter=0.5))
    scale = alt.Scale(domain=kinds)
    interval = (
        alt.Chart(data)
        .mark_rule(color=NEUTRAL, strokeWidth=2)
        .encode(x=alt.X("ci_low:Q"), x2=alt.X2("ci_high:Q"), y=y, yOffset=offset)
    )
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=alt.X("value:Q", title="AUROC (0.5 = chance)", scale=unit_scale()),
            y=y,
            yOffset=offset,
            color=alt.Color("what:N", title=None, scale=scale, legend=key_legend(1)),
            shape=alt.Shape("what:N", title=None, scale=scale),
            tooltip=[
                tip("set:N", "data set"),
                tip("what:N", "on"),
                tip("value:Q", "AUROC", ".3f"),
                tip("ci_low:Q", "95 % from", ".3f"),
                tip("ci_high:Q", "95 % to", ".3f"),
                tip("n:Q", "questions, both sets", ",d"),
            ],
        )
    )
    return stack(rule(0.5, "chance", horizontal=False), interval, points, height=62 * len(sets))
