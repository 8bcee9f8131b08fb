"""Charts of two runs on the same examples: overlap per layer, answer flips, paired differences, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.figures import verdict
from app.figures.palette import BETTER, CALM, NEUTRAL, WORSE
from app.figures.parts import (
    SIGNED,
    key_legend,
    layer_axis,
    layer_selection,
    left_axis,
    require,
    selected_outline,
    stack,
    tip,
    unit_scale,
    zero_line,
)

OUTCOMES = ("both right", "wrong → right", "right → wrong", "both wrong")
OUTCOME_COLOURS = [CALM, BETTER, WORSE, NEUTRAL]


def overlap_by_layer(
    frame: pd.DataFrame, layers: Sequence[int], *, chosen: Sequence[int] = (), layer: int | None = None
) -> alt.LayerChart:
    """Mean Jaccard per layer of the two runs' expert sets on the same tokens (1 = the same experts)."""
    data = require(frame, "layer", "mean_jaccard", "share_changed", "n")
    data["kind"] = data["layer"].isin(list(chosen)).map({True: "Bayesian router", False: "native router"})
    kinds = ["native router", "Bayesian router"]
    bars = (
        alt.Chart(data)
        .mark_bar(cornerRadius=2)
        .encode(
            x=layer_axis(layers),
            y=alt.Y("mean_jaccard:Q", scale=unit_scale(), axis=left_axis("Jaccard (1 = same)", form=".1f")),
            color=alt.Color("kind:N", title=None, scale=alt.Scale(domain=kinds), legend=key_legend()),
            tooltip=[
                tip("layer:O", "layer"),
                tip("kind:N", "router of the second run"),
                tip("mean_jaccard:Q", "mean Jaccard", ".3f"),
                tip("share_changed:Q", "tokens with another expert set", ".1%"),
                tip("n:Q", "tokens", ",d"),
            ],
        )
        .add_params(layer_selection())
    )
    return stack(bars, selected_outline(layers, layer), height=190)


def flips(frame: pd.DataFrame) -> alt.Chart:
    """Share of questions per outcome and data set; the two middle parts are the answers that changed."""
    data = require(frame, "dataset", "outcome", "count", "share", "n")
    data["order"] = data["outcome"].map(OUTCOMES.index)
    return (
        alt.Chart(data)
        .mark_bar(cornerRadius=1)
        .encode(
            y=alt.Y("dataset:N", sort=list(dict.fromkeys(data["dataset"])), title=None, axis=alt.Axis(labelLimit=200)),
            x=alt.X(
                "share:Q",
                title="share of questions",
                stack="zero",
                scale=unit_scale(),
                axis=alt.Axis(format=".0%"),
            ),
            color=alt.Color(
                "outcome:N",
                title=None,
                scale=alt.Scale(domain=list(OUTCOMES), range=OUTCOME_COLOURS),
                legend=key_legend(2),
            ),
            order=alt.Order("order:Q"),
            tooltip=[
                tip("dataset:N", "data set"),
                tip("outcome:N", "answer, first run → second run"),
                tip("count:Q", "questions", ",d"),
                tip("share:Q", "share", ".1%"),
                tip("n:Q", "questions in all", ",d"),
            ],
        )
        .properties(height=34 * data["dataset"].nunique())
    )


def differences(frame: pd.DataFrame, *, title: str, percent: bool, row: str = "dataset") -> alt.LayerChart:
    """Paired difference (second run − first run) with its 95 % interval, one ``row`` each; 0 = no difference."""
    data = require(frame, row, "difference", "ci_low", "ci_high", "verdict", "n")
    form, axis_form = ("+.1%", "+.1~%") if percent else ("+.3f", "+.3~f")
    verdicts = [verdict.UNCLEAR, verdict.BETTER, verdict.WORSE]
    y = alt.Y(f"{row}:N", sort=list(dict.fromkeys(data[row])), title=None, axis=alt.Axis(labelLimit=200))
    interval = (
        alt.Chart(data)
        .mark_rule(color=NEUTRAL, strokeWidth=2)
        .encode(x=alt.X("ci_low:Q", title=title), x2=alt.X2("ci_high:Q"), y=y)
    )
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=80, opacity=1)
        .encode(
            x=alt.X("difference:Q", title=title, axis=alt.Axis(format=axis_form, tickCount=5, labelExpr=SIGNED)),
            y=y,
            color=alt.Color(
                "verdict:N", title=None, scale=alt.Scale(domain=verdicts, range=[NEUTRAL, BETTER, WORSE]), legend=None
            ),
            shape=alt.Shape(
                "verdict:N",
                title=None,
                scale=alt.Scale(domain=verdicts, range=["circle", "triangle-up", "triangle-down"]),
                legend=None,
            ),
            tooltip=[
                tip(f"{row}:N", "data set" if row == "dataset" else row),
                tip("difference:Q", title, form),
                tip("ci_low:Q", "95 % from", form),
                tip("ci_high:Q", "95 % to", form),
                tip("verdict:N", "verdict"),
                tip("n:Q", "shared questions", ",d"),
            ],
        )
    )
    zero = zero_line(horizontal=False, dash=(4, 3))
    return stack(zero, interval, points, height=30 * data[row].nunique())


def confidence_scatter(frame: pd.DataFrame, *, first: str, second: str) -> alt.LayerChart:
    """Confidence of the second run over the first, one mark per shared question, shaped by its outcome."""
    data = require(frame, "dataset", "example_id", "confidence_a", "confidence_b", "outcome")
    unit = unit_scale()
    x = alt.X("confidence_a:Q", title=f"confidence, {first}", scale=unit, axis=alt.Axis(format=".0%"))
    y = alt.Y("confidence_b:Q", title=f"confidence, {second}", scale=unit, axis=alt.Axis(format=".0%"))
    same = (
        alt.Chart(pd.DataFrame({"confidence_a": [0.0, 1.0], "confidence_b": [0.0, 1.0]}))
        .mark_line(color=NEUTRAL, strokeDash=[4, 4], tooltip=None)
        .encode(x=x, y=y)
    )
    domain = list(OUTCOMES)
    data["size"] = data["outcome"].isin(OUTCOMES[1:3]).map({True: 85, False: 26})
    points = (
        alt.Chart(data)
        .mark_point(filled=True, opacity=0.8)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "outcome:N",
                title=None,
                scale=alt.Scale(domain=domain, range=OUTCOME_COLOURS),
                legend=key_legend(2),
            ),
            shape=alt.Shape(
                "outcome:N",
                title=None,
                scale=alt.Scale(domain=domain, range=["circle", "triangle-up", "triangle-down", "square"]),
                legend=key_legend(2),
            ),
            size=alt.Size("size:Q", scale=None),
            tooltip=[
                tip("dataset:N", "data set"),
                tip("example_id:N", "question"),
                tip("outcome:N", "answer"),
                tip("confidence_a:Q", first, ".1%"),
                tip("confidence_b:Q", second, ".1%"),
            ],
        )
        .add_params(alt.selection_point(name="question", fields=["dataset", "example_id"], on="click", empty=False))
    )
    return stack(same, points, height=330)
