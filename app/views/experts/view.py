"""Experts: how the load is spread over layers, and one layer's experts: preference, company, tokens, data sets."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from app.drilldown import layer as depth
from app.pages import path_of
from app.shared import runs as run_names
from app.shared.after_first_chart import after_first_chart
from app.shared.choice_row import choice_row
from app.shared.figure import figure, heading
from app.shared.format import PERCENT
from app.shared.link import go
from app.shared.page import Page, open_page
from app.shared.stepper import stepper
from app.shared.text import counted, plain
from app.shared.token_strip import visible
from app.views.experts import charts

PATH = path_of("experts")


def click_cell(point: dict[str, Any]) -> None:
    """A click on a cell of the load chooses its layer and expert."""
    go("layer", int(point["layer"]))
    go("expert", int(point["expert_index"]))


def draw_load(page: Page, run_id: str, dataset: str, layers: list[int], rows: pd.DataFrame) -> None:
    """Layer × expert load of the run on the chosen data set."""
    weighting = str(page.link.values["weighting"])
    experts = int(rows["expert_index"].max()) + 1
    ratio = rows[weighting] * experts
    unused = int((rows["n_selected"] == 0).sum())
    figure(
        "Load per layer and expert",
        charts.load_heatmap(rows, layers, value=weighting, layer=page.link.index("layer")),
        rows,
        key="load",
        note=f"Share of the layer's {depth.WEIGHTINGS[weighting]} on {dataset}, divided by the balanced share 1/E = "
        f"1/{experts}; {counted(int(rows['n_tokens'].max()), 'token')}. Orange above balance, blue below it; from "
        f"{ratio.min():.2f} to {ratio.max():.2f} times; {unused:,} of {len(rows):,} never used. Click a cell.",
        alt_text="Heatmap of load per layer and expert relative to balance",
        card={**page.card([run_id], "Expert load", "expert_load"), "dataset": dataset},
        explains=("load_share", "gate_share"),
        selection="cell",
        on_select=click_cell,
    )


def draw_choice(page: Page, run_id: str, dataset: str, layer: int, experts: int) -> None:
    """Preference and applied gate of the layer's experts."""
    rows = page.data("expert_choice", run_id, dataset, layer, limit=page.settings.max_drill)
    figure(
        f"Layer {layer}: preferred and applied",
        charts.choice_dots(rows, n_experts=experts, expert=page.link.index("expert")),
        rows,
        key="choice",
        note=f"What the native router would choose for the same inputs, what was applied, and what weight it got; "
        f"{depth.read_note(page, run_id, dataset, layer)}; each sums to 100 %, the line is balance (1/E). "
        "In a deterministic run the first two agree. Click an expert.",
        alt_text=f"Native choice, applied choice and gate weight of every expert of layer {layer}",
        card={**page.card([run_id], f"Layer {layer}", "expert_choice"), "dataset": dataset},
        explains=("load_share", "gate_share"),
        selection="expert",
        on_select=lambda point: go("expert", int(point["expert_index"])),
    )


def draw_company(page: Page, run_id: str, dataset: str, layer: int, experts: int) -> None:
    """Which experts of the layer serve the same tokens."""
    rows = page.data("expert_pairs", run_id, dataset, layer, limit=page.settings.max_drill)
    if rows.empty:
        st.caption("With one expert per token no two experts ever serve the same one.")
        return
    often = rows[rows["n"] >= 10].sort_values("lift", ascending=False)
    said = (
        f" Most often together, against chance: {int(often.iloc[0]['expert_a'])} and "
        f"{int(often.iloc[0]['expert_b'])} ({often.iloc[0]['lift']:.1f} times)."
        if not often.empty
        else ""
    )
    figure(
        f"Layer {layer}: experts that serve the same token",
        charts.company(rows, n_experts=experts, expert=page.link.index("expert")),
        rows,
        key="company",
        note=f"{depth.read_note(page, run_id, dataset, layer)[0].upper()}"
        f"{depth.read_note(page, run_id, dataset, layer)[1:]} of {dataset}. Orange: together more often than by "
        f"chance (+1 = twice as often), blue: less often; empty: never.{said}",
        alt_text=f"Co-occurrence of the experts of layer {layer}",
        card={**page.card([run_id], f"Layer {layer}", "expert_pairs"), "dataset": dataset},
        explains=("lift",),
        selection="expert",
        on_select=lambda point: go("expert", int(point["expert_a"])),
    )


def draw_expert(page: Page, run_id: str, dataset: str, layer: int, expert: int) -> None:
    """The tokens one expert serves."""
    rows = page.data("expert_tokens", run_id, dataset, layer, expert, limit=page.settings.max_drill)
    if rows.empty:
        st.info(f"Expert {expert} served no token of {plain(dataset)} in layer {layer}.")
        return
    texts = [visible(text, int(one)) for text, one in zip(rows["token"], rows["token_id"], strict=True)]
    heading(
        f"Tokens of expert {expert} in layer {layer}",
        f"The {len(rows)} it serves most often, from {depth.read_note(page, run_id, dataset, layer)}. Share of reads: "
        "how many of the token's occurrences it serves, and how many times its share of all tokens that is.",
        key="tokens",
        card={**page.card([run_id], f"Expert {expert} of layer {layer}", "expert_tokens"), "dataset": dataset},
        table=rows,
        explains=("load_share",),
    )
    st.dataframe(
        rows.assign(token=texts, share=100 * rows["share"])[["token", "n", "n_read", "share", "lift", "mean_gate"]],
        hide_index=True,
        key="tokens.frame",
        height=min(38 + 35 * len(rows), 420),
        column_config={
            "token": st.column_config.TextColumn(pinned=True),
            "n": st.column_config.NumberColumn("served", format="localized"),
            "n_read": st.column_config.NumberColumn("read", format="localized"),
            "share": st.column_config.ProgressColumn("share of reads", format=PERCENT, min_value=0, max_value=100),
            "lift": st.column_config.NumberColumn("times its overall share", format="%.1f"),
            "mean_gate": st.column_config.NumberColumn("mean gate weight", format="%.3f"),
        },
        alt=f"Tokens that expert {expert} of layer {layer} serves most often",
    )


def draw_layer(page: Page, run_id: str, dataset: str, layers: list[int], layer: int, expert: int) -> None:
    """All that is known of the chosen layer's experts."""
    experts = int(page.model(page.run(run_id)["model"])["n_experts"])
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"### Layer {layer}, expert {expert}", anchors=False, width="content")
        stepper("layer", layers, layer, "layer")
        query = {"run": run_id, "layer": str(layer), "dataset": dataset}
        st.page_link(path_of("layers"), label="Stability of this layer →", query_params=query)
    depth.draw_experts(page, run_id, layer, page.link.text("weighting"))
    left, right = st.columns(2, gap="large")
    with left:
        draw_choice(page, run_id, dataset, layer, experts)
    with right:
        draw_company(page, run_id, dataset, layer, experts)
    draw_expert(page, run_id, dataset, layer, expert)


def choices(page: Page, run_id: str, layers: list[int], datasets: list[str], experts: int) -> None:
    """The selectors at the top of the page."""
    link = page.link
    with choice_row():
        with st.container(width=420):
            link.select("run", "Run", page.runs["run_id"].tolist(), show=page.option)
        if datasets:
            with st.container(width=240):
                link.select("dataset", "Data set", datasets)
        with st.container(width=130):
            link.select("layer", "Layer", layers)
        with st.container(width=130):
            link.select("expert", "Expert", list(range(experts)))
    page.banners([run_id])
    link.select(
        "weighting",
        "Load counted in",
        list(depth.WEIGHTINGS),
        show=lambda name: depth.WEIGHTINGS[name],
        kind="buttons",
    )


def render() -> None:
    """Draw the page."""
    page = open_page(
        PATH,
        "Experts",
        "Which experts carry the load, which tokens do they serve, and who serves with whom?",
    )
    link = page.link
    run_ids = page.runs["run_id"].tolist()
    run_id = link.pick("run", run_ids, run_names.default_run(page.runs))
    assert run_id is not None
    model = page.run(run_id)["model"]
    experts = int(page.model(model)["n_experts"])
    layers = page.layers(model)
    datasets = page.datasets(run_id)
    dataset = link.pick("dataset", datasets, datasets[0] if datasets else None)
    rows = page.data("expert_load", run_id, dataset=dataset) if dataset is not None else pd.DataFrame()
    carried = [int(one) for one in run_names.as_list(page.run(run_id)["layers"])]
    layer = link.pick("layer", layers, carried[0] if carried else layers[0])
    assert layer is not None
    link.pick("weighting", list(depth.WEIGHTINGS), "share")
    top = rows[rows["layer"] == layer].sort_values("n_selected", ascending=False) if not rows.empty else rows
    expert = link.pick("expert", list(range(experts)), int(top.iloc[0]["expert_index"]) if not top.empty else 0)
    link.commit()
    choices(page, run_id, layers, datasets, experts)
    if rows.empty or dataset is None or expert is None:
        page.absent(
            run_id,
            "No routing was traced for this run",
            "vmoer run SPEC.yaml   # with `trace` among its stages",
            why="The predictive estimator and the noise control answer questions without a trace of their own; "
            "their in-router or deterministic sibling has one.",
        )
        return
    draw_load(page, run_id, dataset, layers, rows)
    after_first_chart(PATH, partial(draw_layer, page, run_id, dataset, layers, layer, expert))


render()
