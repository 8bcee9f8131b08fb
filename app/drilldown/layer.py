"""One layer of a run in depth: its experts, the tokens and questions it routes least surely, one prompt as a strip."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.drilldown import charts
from app.pages import path_of
from app.shared import runs as run_names
from app.shared.figure import figure, heading
from app.shared.format import PERCENT
from app.shared.inspect_link import inspect_link
from app.shared.link import go
from app.shared.page import Page
from app.shared.stepper import stepper
from app.shared.text import counted, plain
from app.shared.token_strip import token_strip, visible

WEIGHTINGS = {"share": "tokens", "gate_share": "gate weight"}
#: what tokens and questions are ranked by: the query's name, the words for it, its column in the answer
RANKINGS = {
    "routing_entropy": ("routing entropy", "mean_entropy"),
    "logit_variance": ("logit variance", "mean_variance"),
    "changed": ("experts changed", "share_changed"),
    "top_k_margin": ("small margin", "mean_margin"),
}
AT_LEAST = 3
EXPLAINED = {"changed": "overlap"}
_COLUMNS = {
    "n": st.column_config.NumberColumn("tokens", format="localized"),
    "mean_entropy": st.column_config.NumberColumn("routing entropy, nats", format="%.3f"),
    "mean_variance": st.column_config.NumberColumn("logit variance", format="%.3g"),
    "share_changed": st.column_config.NumberColumn("experts changed", format=PERCENT),
    "mean_margin": st.column_config.NumberColumn("top-k margin", format="%.4f"),
}


def rankings(page: Page, run_id: str, layer: int) -> list[str]:
    """The rankings the layer has values for: a native router has no variance and never departs from itself."""
    stats = page.data("layer_stats", run_ids=(run_id,))
    here = stats[stats["layer"] == layer]
    left_out = set()
    if here.empty or here["mean_variance"].isna().all():
        left_out.add("logit_variance")
    if here.empty or not here["share_changed"].max() > 0:
        left_out.add("changed")
    return [name for name in RANKINGS if name not in left_out]


def read_note(page: Page, run_id: str, dataset: str, layer: int) -> str:
    """How many of the layer's tokens a drill-down reads."""
    stats = page.data("layer_stats", run_ids=(run_id,), dataset=dataset)
    n = int(stats.loc[stats["layer"] == layer, "n"].sum())
    limit = page.settings.max_drill
    return counted(n, "token") if n <= limit else f"the first {limit:,} of {n:,} tokens, in stored order"


def example_options(page: Page, run_id: str, dataset: str) -> list[str]:
    """The ids of the run's questions on a data set."""
    return [str(one) for one in page.data("example_ids", run_id, dataset)["example_id"]]


def draw_experts(page: Page, run_id: str, layer: int, weighting: str) -> None:
    """Load of every expert of the layer, per data set."""
    parts = [page.data("expert_load", run_id, dataset=name).assign(dataset=name) for name in page.datasets(run_id)]
    load = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["layer"])
    load = load[load["layer"] == layer].reset_index(drop=True)
    if load.empty:
        return
    figure(
        f"Experts of layer {layer}",
        charts.expert_bars(load, value=weighting),
        load,
        key="experts",
        note=f"Share of the layer's {WEIGHTINGS[weighting]} per data set in {page.label(run_id)}; "
        "the line is balance (1/E).",
        alt_text=f"Load of every expert of layer {layer} per data set",
        card=page.card([run_id], f"Layer {layer}", "expert_load"),
        explains=("load_share", "gate_share"),
    )


def _shown(rows: pd.DataFrame, name: str, *columns: str) -> pd.DataFrame:
    """The columns of ``rows`` that hold anything, shares in percent."""
    rows = rows.assign(share_changed=100 * rows["share_changed"])
    return rows[[name, "n", *columns]].dropna(axis="columns", how="all")


def draw_tokens(page: Page, run_id: str, dataset: str, layer: int, by: str) -> None:
    """The tokens and questions of a layer that it routes least surely, side by side; a row of the second is chosen."""
    limit = page.settings.max_drill
    words, column = RANKINGS[by]
    read = read_note(page, run_id, dataset, layer)
    card = page.card([run_id], f"Layer {layer} on {dataset}", "layer_tokens, layer_examples")
    tokens = page.data("layer_tokens", run_id, dataset, layer, by=by, at_least=AT_LEAST, limit=limit)
    least = AT_LEAST
    if tokens.empty:  # a few prompts: no vocabulary entry occurs that often
        least = 1
        tokens = page.data("layer_tokens", run_id, dataset, layer, by=by, at_least=least, limit=limit)
    examples = page.data("layer_examples", run_id, dataset, layer, by=by, limit=limit)
    first = [column, *(name for name in _COLUMNS if name not in (column, "n"))]
    left, right = st.columns(2, gap="large")
    with left:
        named = tokens.assign(
            token=[visible(text, int(one)) for text, one in zip(tokens["token"], tokens["token_id"], strict=True)]
        )
        heading(
            f"Tokens of layer {layer}, least sure first",
            f"By {words}, mean over {read} of {dataset}; vocabulary entries read at least {counted(least, 'time')}.",
            key="tokens",
            card=card,
            table=tokens,
            explains=(EXPLAINED.get(by, by),),
        )
        st.dataframe(
            _shown(named, "token", *first),
            hide_index=True,
            key="tokens.frame",
            height=300,
            column_config={"token": st.column_config.TextColumn(pinned=True), **_COLUMNS},
            alt=f"Tokens of layer {layer} ranked by {words}",
        )
    with right:
        heading(
            f"Questions of layer {layer}, least sure first",
            f"By {words}, mean over each prompt's tokens. Click the box at the left of a row to see its tokens below.",
            key="questions",
            card=card,
            table=examples,
        )

        def chosen() -> None:
            rows = st.session_state["questions.frame"]["selection"]["rows"]
            if rows:
                go("example", str(examples.iloc[rows[0]]["example_id"]))

        st.dataframe(
            _shown(examples, "example_id", *first),
            hide_index=True,
            key="questions.frame",
            height=300,
            on_select=chosen,
            selection_mode="single-row",
            column_config={"example_id": st.column_config.TextColumn("question", pinned=True), **_COLUMNS},
            alt=f"Questions of layer {layer} ranked by {words}",
        )


def draw_strip(page: Page, run_id: str, dataset: str, layer: int, by: str, options: list[str]) -> None:
    """The chosen question as a strip of tokens, shaded by the ranking's quantity in the layer."""
    example = str(page.link.values["example"])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        with st.container(width=340):
            page.link.select("example", f"Question of {dataset}", options)
        stepper("example", options, example, "question")
    rows = page.data("token_routing", run_id, dataset, example, layer=layer)
    if rows.empty:
        st.caption(f"No routing of {plain(example)} was traced in layer {layer}.")
        return
    count = len(rows)
    rows = rows.head(page.settings.max_tokens)
    size = rows["expert_index"].map(len)
    values: Any = (size - rows["overlap"]) if by == "changed" else rows[by].astype(float)
    if by == "top_k_margin":
        values = -values
    low, high = float(values.min()), float(values.max())
    shares = (values - low) / (high - low) if high > low else values * 0
    cut = "" if count == len(rows) else f" The first {len(rows):,} of {count:,} tokens."
    words = RANKINGS[by][0]
    st.caption(f"Stronger colour = less sure in layer {layer}, by {words}; this prompt's own range.{cut}")
    texts = [visible(text, int(one)) for text, one in zip(rows["token"], rows["token_id"], strict=True)]
    titles = [
        f"position {row['position']} · experts {', '.join(map(str, row['expert_index']))} · "
        f"entropy {row['routing_entropy']:.3f} nats · margin {row['top_k_margin']:.4f}"
        for row in run_names.records(rows)
    ]
    token_strip(texts, shares.tolist(), titles, None)
    right_run = run_names.deterministic_of(page.runs, run_id)
    query = {"run": run_id, "dataset": dataset, "example": example, "part": "question"}
    with st.container(horizontal=True, gap="medium"):
        if right_run not in (None, run_id):
            query["baseline"] = str(right_run)
            label = "Compare this question with the deterministic run →"
            st.page_link(path_of("compare"), label=label, query_params=query)
        inspect_link(page, run_id, dataset, example)
