"""What an AUROC says: the score with where it was read, and whether it is above chance or inverted; no Streamlit."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.figures.palette import NEUTRAL, ROLE_LABELS
from app.figures.parts import key_legend, require, rule, stack, tip, unit_scale

OOD_ROLES = ("near-ood", "far-ood")
#: stroke dashes per role, in pixels
DASHES = {"in-distribution": [1, 0], "near-ood": [7, 3], "far-ood": [2, 2], "validation": [1, 0]}
POSITIONS = {"answer": "answer", "final_prompt_token": "last token", "prompt_mean": "prompt mean"}
INVERTED = "INVERTED"
_SCORES = {"one_minus_max_prob": "1 − largest probability", "logit_variance_mc": "MC logit variance"}


def score_name(score: str) -> str:
    """A score as pages call it."""
    return _SCORES.get(score, score.replace("_", " "))


def score_label(score: str, position: str, aggregation: str) -> str:
    """A score, as pages call it, with where it was read."""
    where = [] if position == "answer" else [POSITIONS.get(position, position)]
    where += [] if aggregation in ("none", "mean_layers") else [aggregation]
    return score_name(score) if not where else f"{score_name(score)} ({', '.join(where)})"


def verdict(value: float, low: float | None, high: float | None) -> str:
    """What an AUROC says: inverted, better than chance, or not told apart from chance."""
    if value < 0.5:
        return INVERTED if high is not None and high < 0.5 else f"{INVERTED} (interval holds 0.5)"
    return "above chance" if low is not None and low > 0.5 else "not told apart from chance"


def auroc_rows(metrics: pd.DataFrame, roles: pd.Series) -> pd.DataFrame:
    """AUROC rows of one run's ``metrics`` with role, label and verdict; ``roles`` maps data sets to their role."""
    rows = metrics[metrics["metric"] == "auroc"].copy()
    rows["role"] = rows["dataset"].map(roles)
    rows = rows[rows["role"].isin(OOD_ROLES) & rows["value"].notna()].reset_index(drop=True)
    keys = zip(rows["score"], rows["position_rule"], rows["aggregation"], strict=True)
    rows["label"] = [score_label(*key) for key in keys]
    bounds = zip(rows["value"], rows["ci_low"], rows["ci_high"], strict=True)
    rows["verdict"] = [verdict(*bound) for bound in bounds]
    return rows.sort_values(["role", "dataset"], key=by_role, kind="stable").reset_index(drop=True)


def by_role(column: pd.Series) -> pd.Series:
    """Roles in their own order, names by the alphabet; a sort key."""
    return column.map(list(ROLE_LABELS).index) if column.name == "role" else column


def set_labels(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str], list[list[int]]]:
    """``frame`` with a ``set`` column ("name · role"), the sets in order of role, and each one's dash pattern."""
    data = frame.copy()
    data["set"] = data["dataset"] + " · " + data["role"].map(ROLE_LABELS)
    order = list(ROLE_LABELS)
    pairs = data[["set", "role"]].drop_duplicates().sort_values("role", key=lambda roles: roles.map(order.index))
    return data, pairs["set"].tolist(), [DASHES[role] for role in pairs["role"]]


def auroc_forest(frame: pd.DataFrame, *, order: Sequence[str]) -> alt.LayerChart:
    """AUROC with its 95 % interval per score (rows) and OoD set; left of 0.5 the score is inverted."""
    data = require(frame, "label", "dataset", "role", "value", "ci_low", "ci_high", "n", "verdict")
    data, sets, _ = set_labels(data)
    y = alt.Y("label:N", sort=list(order), title=None, axis=alt.Axis(labelLimit=200, grid=True))
    offset = alt.YOffset("set:N", scale=alt.Scale(domain=sets, paddingOuter=0.35))
    x = alt.X("value:Q", title="AUROC (0.5 = chance)", scale=unit_scale())
    scale = alt.Scale(domain=["", *sets])
    legend = key_legend(1, values=sets)
    # beside the names of the scores a phone leaves room for the name of a set only
    legend["labelExpr"] = "width < 260 ? split(datum.label, ' · ')[0] : datum.label"
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
            color=alt.Color("set:N", scale=scale, legend=legend),
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
    return stack(chance, interval, points, height=len(order) * max(26, 13 * len(sets)))
