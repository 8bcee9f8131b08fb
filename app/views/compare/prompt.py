"""One prompt in two runs: token strip, changed experts per token and layer, and the experts of one token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from app.comparison import paired_answers as pairs
from app.figures.token_heatmap import token_heatmap
from app.shared import runs as run_names
from app.shared.figure import figure
from app.shared.inspect_link import inspect_link
from app.shared.link import go
from app.shared.page import Page
from app.shared.text import counted, plain
from app.shared.token_strip import token_strip, visible


def _click_cell(point: dict[str, Any]) -> None:
    go("token", int(point["position"]))
    go("layer", int(point["layer"]))


def draw_prompt(page: Page, first: str, second: str, dataset: str, example: str, card: Mapping[str, Any]) -> None:
    """Draw the tokens of one question in both runs."""
    rows = page.data("paired_token_routing", first, second, dataset, example)
    if rows.empty:
        command = "vmoer run SPEC.yaml   # with `trace` among its stages"
        page.absent(second, "No routing was traced for this question", command)
        return
    limit = page.settings.max_tokens
    n_tokens = rows["position"].nunique()
    rows = rows[rows["position"] < limit].copy()
    sets = zip(rows["expert_index_a"], rows["expert_index_b"], strict=True)
    rows["changed"] = [len(pairs.experts_changed(a, b)[0]) for a, b in sets]
    rows["token"] = [
        visible(token, int(token_id)) for token, token_id in zip(rows["token"], rows["token_id"], strict=True)
    ]
    top_k = max(len(experts) for experts in rows["expert_index_a"])
    layers = [int(layer) for layer in sorted(rows["layer"].unique())]
    tokens = rows.groupby("position").agg(token=("token", "first"), changed=("changed", "mean")).reset_index()
    token = page.link.index("token")
    positions = tokens["position"].astype(int).tolist()
    marked = positions.index(token) if token in positions else None
    heaviest = max(float(tokens["changed"].max()), 1e-9)
    cut = "" if n_tokens <= limit else f" The first {limit:,} of {n_tokens:,} tokens are shown."
    st.caption(
        f"Stronger colour = more experts changed, mean over {len(layers)} layers "
        f"(strongest here: {tokens['changed'].max():.2f} of {top_k}).{cut}"
    )
    titles = [f"position {row.position}: {row.changed:.2f} of {top_k} experts changed" for row in tokens.itertuples()]
    token_strip(tokens["token"].tolist(), (tokens["changed"] / heaviest).tolist(), titles, marked)
    draw_strips(page, first, second, rows, tokens["token"].tolist(), marked)
    inspect_link(page, second, dataset, example)
    figure(
        "Experts changed per token and layer",
        token_heatmap(
            rows,
            layers,
            value="changed",
            title=f"experts changed, of {top_k}",
            domain=(0, max(int(rows["changed"].max()), 1)),
            token=token if marked is not None else None,
        ),
        rows[["position", "token", "layer", "expert_index_a", "expert_index_b", "changed"]],
        key="tokens",
        note=f"{counted(len(tokens), 'token')} × {len(layers)} layers; 0 = both runs chose the same {top_k} experts. "
        "Click a cell for its experts.",
        alt_text="Heatmap of changed experts per token and layer",
        card=card,
        explains=("overlap",),
        selection="cell",
        on_select=_click_cell,
    )
    if marked is not None:
        draw_token(rows[rows["position"] == token], tokens["token"].iloc[marked])
    else:
        st.caption("No token is chosen: click a cell of the heatmap.")


def draw_strips(page: Page, first: str, second: str, rows: pd.DataFrame, tokens: list[str], marked: int | None) -> None:
    """The prompt in both runs side by side, shaded by mean routing entropy over layers on one scale."""
    means = rows.groupby("position")[["routing_entropy_a", "routing_entropy_b"]].mean()
    low, high = float(means.min().min()), float(means.max().max())
    span = max(high - low, 1e-12)
    for column, side, run_id in zip(st.columns(2, gap="large"), ("a", "b"), (first, second), strict=True):
        values = means[f"routing_entropy_{side}"]
        with column:
            st.caption(
                f"{plain(page.label(run_id))}: routing entropy, mean over layers, {low:.3f} to {high:.3f} nats on both "
                "sides; stronger = less sure."
            )
            titles = [f"position {place}: {value:.3f} nats" for place, value in values.items()]
            token_strip(tokens, ((values - low) / span).tolist(), titles, marked)


def draw_token(rows: pd.DataFrame, token: str) -> None:
    """Experts of one token per layer in both runs."""
    lines = []
    for row in run_names.records(rows.sort_values("layer")):
        gained, lost = pairs.experts_changed(row["expert_index_a"], row["expert_index_b"])
        lines.append(
            {
                "layer": int(row["layer"]),
                "first run": ", ".join(map(str, row["expert_index_a"])),
                "second run": ", ".join(map(str, row["expert_index_b"])),
                "gained": ", ".join(map(str, gained)) or "–",
                "lost": ", ".join(map(str, lost)) or "–",
                "changed": len(gained),
            }
        )
    st.markdown("**Experts of token** `" + token.replace("`", "ʼ") + f"` at position {int(rows['position'].iloc[0])}")
    st.dataframe(
        pd.DataFrame(lines), hide_index=True, key="token.experts", alt="Experts of the chosen token in both runs"
    )
