"""Charts of one inspected prompt: experts over routing samples, the next token, generated tokens, attributions."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.figures.palette import NEUTRAL
from app.figures.parts import index_axis, key_legend, left_axis, require, stack, tip, unit_scale, zero_line

CHOICES = ("chosen without sampling", "only by some samples")
MODELS = ("deterministic", "average over samples")
SIGNS = ("raises it", "lowers it")


def expert_fan(frame: pd.DataFrame) -> alt.Chart:
    """Share of the routing samples in which each expert of one layer was chosen for one token."""
    data = require(frame, "expert", "share", "count", "samples", "choice", "gate")
    return (
        alt.Chart(data)
        .mark_bar(cornerRadius=2)
        .encode(
            x=alt.X("expert:O", title="expert", axis=index_axis()),
            y=alt.Y("share:Q", scale=unit_scale(), axis=left_axis("share of samples", form=".0%")),
            color=alt.Color(
                "choice:N",
                title=None,
                scale=alt.Scale(domain=list(CHOICES)),
                legend=key_legend(1),
            ),
            opacity=alt.Opacity("choice:N", scale=alt.Scale(domain=list(CHOICES), range=[1, 0.75]), legend=None),
            tooltip=[
                tip("expert:O", "expert"),
                tip("count:Q", "samples that chose it", ",d"),
                tip("samples:Q", "of", ",d"),
                tip("choice:N", "in the deterministic model"),
                tip("gate:Q", "gate weight applied", ".3f"),
            ],
        )
        .properties(height=220)
    )


def next_token(frame: pd.DataFrame) -> alt.LayerChart:
    """Probability of the likeliest next tokens: deterministic and averaged over samples, with the samples' spread."""
    data = require(frame, "label", "model", "probability", "low", "high")
    order = list(dict.fromkeys(data["label"]))
    y = alt.Y("label:N", title=None, sort=order, axis=alt.Axis(labelLimit=140))
    x = alt.X(
        "probability:Q", title="probability", scale=alt.Scale(zero=True), axis=alt.Axis(format=".0%", tickCount=5)
    )
    spread = (
        alt.Chart(data[data["low"].notna()])
        .mark_rule(color=NEUTRAL, strokeWidth=4, opacity=0.45)
        .encode(y=y, x=alt.X("low:Q", title="probability"), x2=alt.X2("high:Q"))
    )
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=75, opacity=1)
        .encode(
            y=y,
            x=x,
            color=alt.Color(
                "model:N",
                title=None,
                scale=alt.Scale(domain=list(MODELS)),
                legend=key_legend(1),
            ),
            shape=alt.Shape("model:N", title=None, scale=alt.Scale(domain=list(MODELS), range=["diamond", "circle"])),
            tooltip=[
                tip("label:N", "token"),
                tip("model:N", "model"),
                tip("probability:Q", "probability", ".2%"),
                tip("low:Q", "10 % of samples below", ".2%"),
                tip("high:Q", "10 % of samples above", ".2%"),
            ],
        )
    )
    return stack(spread, points).properties(height=24 * len(order))


def entropies(frame: pd.DataFrame) -> alt.LayerChart:
    """Entropy of the next-token distribution per new token: deterministic, averaged, and the mutual information."""
    data = require(frame, "step", "token", "kind", "nats")
    kinds = list(dict.fromkeys(data["kind"]))
    x = alt.X("step:O", title="new token", axis=index_axis())
    lines = (
        alt.Chart(data)
        .mark_line(point=alt.OverlayMarkDef(filled=True, size=45))
        .encode(
            x=x,
            y=alt.Y("nats:Q", axis=left_axis("nats", form=".1f"), scale=alt.Scale(zero=True)),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=kinds),
                legend=key_legend(1, lines=True),
            ),
            strokeDash=alt.StrokeDash(
                "kind:N", title=None, scale=alt.Scale(domain=kinds), legend=key_legend(1, lines=True)
            ),
            tooltip=[
                tip("step:O", "new token"),
                tip("token:N", "token taken"),
                tip("kind:N", "quantity"),
                tip("nats:Q", "nats", ".3f"),
            ],
        )
    )
    return stack(lines).properties(height=200)


def attribution(frame: pd.DataFrame, *, unit: str, exact: bool) -> alt.LayerChart:
    """What each token adds to the quantity; pale bars where the parts do not add up to the whole."""
    data = require(frame, "place", "token", "label", "value", "low", "high", "sign")
    order: Sequence[str] = list(data["label"])
    x = alt.X("label:N", title="token", sort=list(order), axis=alt.Axis(labelAngle=-60, labelLimit=90, grid=False))
    y = alt.Y("value:Q", axis=left_axis(unit, form=".2~g"))
    bars = (
        alt.Chart(data)
        .mark_bar(cornerRadius=2, opacity=1 if exact else 0.4)
        .encode(
            x=x,
            y=y,
            color=alt.Color("sign:N", title=None, scale=alt.Scale(domain=list(SIGNS)), legend=key_legend()),
            tooltip=[
                tip("token:N", "token"),
                tip("place:Q", "position"),
                tip("value:Q", unit, "+.4~g"),
                tip("low:Q", "minus one standard error", "+.4~g"),
                tip("high:Q", "plus one standard error", "+.4~g"),
            ],
        )
    )
    errors = (
        alt.Chart(data[data["low"].notna()])
        .mark_rule(color=NEUTRAL, strokeWidth=2)
        .encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    )
    zero = zero_line()
    return stack(bars, errors, zero).properties(height=230)
