"""Layer susceptibility: where routing is unstable under noise, where it matters, and how the load is spread."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import runs as run_names
from app.charts import layers as charts
from app.components import states
from app.components.figure import figure
from app.components.format import interval, number
from app.components.link import go
from app.components.page import Page, open_page
from app.components.text import plain

PATH = "views/layers.py"
MODES = {"router": "this router only", "propagated": "noise travels through the network"}
WEIGHTINGS = {"share": "tokens", "gate_share": "gate weight"}
QUANTITIES = {"accuracy": "accuracy", "nll": "NLL"}
INTERVENTIONS = {"random-routing": "routing drawn at random", "zero-block": "block's output removed"}


def click_layer(point: dict[str, Any]) -> None:
    """A click on a layer in any chart chooses it."""
    go("layer", int(point["layer"]))


def measured_on(page: Page, run_id: str, query: str, **options: Any) -> tuple[str, pd.DataFrame]:
    """Rows of a per-layer query for the run, else for its experiment's deterministic run (the page says which)."""
    candidates = [run_id]
    baseline = run_names.deterministic_of(page.runs, run_id)
    if baseline not in (None, run_id):
        candidates.append(str(baseline))
    rows = page.data(query, run_ids=tuple(candidates), **options)
    for candidate in candidates:
        found = rows[rows["run_id"] == candidate]
        if not found.empty:
            return candidate, found.reset_index(drop=True)
    return run_id, rows


def say_source(page: Page, run_id: str, source: str) -> None:
    """Say so where a figure was measured on the deterministic run."""
    if source != run_id:
        st.caption(
            f"Measured on {plain(page.label(source))}: the test perturbs the native routers, so the runs of one "
            "experiment share it."
        )


def draw_stability(page: Page, run_id: str, found: tuple[str, pd.DataFrame], layers: list[int]) -> None:
    """Heatmap layer × γ and, below it on the same axis, the profile at the chosen γ."""
    source, rows = found
    values = page.link.values
    gamma, layer, mode = values["gamma"], values["layer"], str(values["mode"])
    run = page.run(run_id)
    chosen = [int(one) for one in run_names.as_list(run["layers"])]
    at = rows[rows["gamma"] == gamma].reset_index(drop=True)
    card = page.card([source], "Stability of routing", f"layer_susceptibility, mode {mode}")
    tokens = int(rows["n"].max())
    susceptible = sorted(at.loc[at["susceptible"].astype(bool), "layer"].astype(int))
    figure(
        "Stability of routing under noise",
        charts.stability_heatmap(rows, layers, layer=layer, gamma=gamma),  # type: ignore[arg-type]
        rows,
        key="stability",
        note=f"Mean Jaccard index of clean and noisy expert sets; {tokens:,} tokens; higher = more stable. "
        "A white dot marks a susceptible layer at that noise level. Click a layer for its details.",
        alt_text=f"Mean Jaccard per layer and noise level; susceptible at γ = {gamma:g}: {susceptible or 'none'}",
        card=card,
        explains=("jaccard", "chance", "susceptible"),
        selection="layer",
        on_select=click_layer,
    )
    say_source(page, run_id, source)
    listed = ", ".join(map(str, susceptible)) or "none"
    figure(
        f"At γ = {gamma:g}: {len(susceptible)} of {len(at)} layers susceptible",
        charts.stability_profile(at, layers, chosen=chosen, layer=layer),  # type: ignore[arg-type]
        at,
        key="profile",
        note=f"Susceptible layers: {listed}. Grey bars hold the middle half of the {int(at['n'].max()):,} tokens, "
        f"lines the 95 % interval of the mean. The rule: mean Jaccard below {at['threshold'].mean():.3f} (chance level "
        f"{at['chance'].mean():.3f}). Pink triangles: layers that carry a Bayesian router in this run.",
        alt_text=f"Mean Jaccard per layer at noise level {gamma:g} with the susceptibility threshold",
        card=card,
        explains=("susceptible", "chance"),
        selection="layer",
        on_select=click_layer,
    )


def draw_leverage(page: Page, run_id: str, layers: list[int]) -> None:
    """What random routing costs per layer, with the totals of all chosen layers in words."""
    source, rows = measured_on(page, run_id, "layer_leverage")
    if rows.empty:
        states.empty(
            "No leverage for this experiment",
            "vmoer run SPEC.yaml   # with `leverage` among its stages",
            why="Leverage is what random routing costs a layer: an unstable layer without leverage is harmless.",
        )
        return
    quantity = str(page.link.values["quantity"])
    run = page.run(run_id)
    chosen = [int(one) for one in run_names.as_list(run["layers"])]
    single = rows[(rows["scope"] == "layer") & (rows["intervention"] == "random-routing")].reset_index(drop=True)
    together = rows[(rows["scope"] != "layer") & (rows["intervention"] == "random-routing")]
    percent = quantity == "accuracy"
    value = f"{quantity}_change"
    totals = " ".join(
        f"{'All chosen' if row['scope'] == 'chosen' else 'All MoE'} layers together: "
        f"{interval(row[value], row[f'{quantity}_ci_low'], row[f'{quantity}_ci_high'], percent=percent, signed=True)}."
        for row in run_names.records(together)
    )
    page.link.select("quantity", "Leverage in", list(QUANTITIES), show=lambda name: QUANTITIES[name], kind="buttons")
    direction = "below 0 = routing matters" if percent else "above 0 = routing matters"
    figure(
        "Leverage: what uniformly random routing costs, layer by layer",
        charts.leverage_bars(single, layers, quantity=quantity, chosen=chosen, layer=page.link.values["layer"]),  # type: ignore[arg-type]
        rows,
        key="leverage",
        note=f"Change of {QUANTITIES[quantity]} ({direction}); {int(single['n'].max()):,} questions × "
        f"{int(single['draws'].min())} draws, paired 95 % intervals. {totals}",
        alt_text=f"Change of {QUANTITIES[quantity]} per layer when its routing is drawn at random",
        card=page.card([source], "Leverage", "layer_leverage"),
        explains=(value,),
        selection="layer",
        on_select=click_layer,
    )
    say_source(page, run_id, source)


def draw_load(page: Page, run_id: str, layers: list[int]) -> None:
    """Layer × expert load of the run itself on the chosen data set."""
    dataset, weighting = str(page.link.values["dataset"]), str(page.link.values["weighting"])
    rows = page.data("expert_load", run_id, dataset=dataset)
    if rows.empty:
        states.empty(
            f"No routing was traced on {plain(dataset)}", "vmoer run SPEC.yaml   # with `trace` among its stages"
        )
        return
    page.link.select(
        "weighting", "Load counted in", list(WEIGHTINGS), show=lambda name: WEIGHTINGS[name], kind="buttons"
    )
    experts = int(rows["expert_index"].max()) + 1
    figure(
        "Expert load per layer",
        charts.load_heatmap(rows, layers, value=weighting, layer=page.link.values["layer"]),  # type: ignore[arg-type]
        rows,
        key="load",
        note=f"Share of the layer's {WEIGHTINGS[weighting]} on {dataset}, divided by the balanced share 1/E = "
        f"1/{experts}; {int(rows['n_tokens'].max()):,} tokens. Orange above balance, blue below it.",
        alt_text="Heatmap of load per layer and expert relative to balance",
        card=page.card([run_id], "Expert load", "expert_load"),
        explains=("load_share", "gate_share"),
        selection="layer",
        on_select=click_layer,
    )


def draw_layer(page: Page, run_id: str, stability: pd.DataFrame) -> None:
    """All that is known of the chosen layer."""
    layer, weighting = int(page.link.values["layer"]), str(page.link.values["weighting"])  # type: ignore[arg-type]
    st.markdown(f"### Layer {layer}", anchors=False)
    at = stability[(stability["layer"] == layer) & (stability["gamma"] == page.link.values["gamma"])]
    with st.container(horizontal=True, gap="small"):
        if not at.empty:
            cell = at.iloc[0]
            st.metric(
                f"Jaccard at γ = {cell['gamma']:g}",
                number(cell["jaccard"]),
                delta="susceptible" if cell["susceptible"] else "stable",
                delta_color="off",
                delta_arrow="off",
                border=True,
                width=220,
            )
        leverage = measured_on(page, run_id, "layer_leverage")[1]
        if not leverage.empty:
            found = leverage[
                (leverage["scope"] == "layer")
                & (leverage["layer"] == layer)
                & (leverage["intervention"] == "random-routing")
            ]
            for row in run_names.records(found):
                ends = (row["accuracy_ci_low"], row["accuracy_ci_high"])
                bounds = [number(end, percent=True, signed=True) for end in ends]
                st.metric(
                    "Accuracy, routing at random",
                    number(row["accuracy_change"], percent=True, signed=True),
                    delta=f"[{bounds[0]}, {bounds[1]}]",
                    delta_color="off",
                    delta_arrow="off",
                    border=True,
                    width=260,
                )
    stats = page.data("layer_stats", run_ids=(run_id,), by_dataset=True)
    stats = stats[stats["layer"] == layer].drop(columns=["run_id", "layer"])
    datasets = run_names.as_list(page.run(run_id)["datasets"])
    parts = [page.data("expert_load", run_id, dataset=name).assign(dataset=name) for name in datasets]
    load = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["layer"])
    load = load[load["layer"] == layer].reset_index(drop=True)
    card = page.card([run_id], f"Layer {layer}", "expert_load, layer_stats")
    if not load.empty:
        figure(
            f"Experts of layer {layer}",
            charts.expert_bars(load, value=weighting),
            load,
            key="experts",
            note=f"Share of the layer's {WEIGHTINGS[weighting]} per data set in {page.label(run_id)}; "
            "the line is balance.",
            alt_text=f"Load of every expert of layer {layer} per data set",
            card=card,
            explains=("load_share", "gate_share"),
        )
    if not stats.empty:
        st.markdown("**Routing statistics per data set**, means over tokens")
        st.dataframe(stats, hide_index=True, key="layer.stats", alt=f"Routing statistics of layer {layer}")


def render() -> None:
    """Draw the page."""
    page = open_page(
        PATH,
        "Layer susceptibility",
        "Where does a little noise change the chosen experts, and where would other experts change the answer?",
    )
    link = page.link
    run_ids = page.runs["run_id"].tolist()
    run_id = link.pick("run", run_ids, run_names.default_run(page.runs))
    assert run_id is not None
    run = page.run(run_id)
    mode = link.pick("mode", list(MODES), "router")
    found = measured_on(page, run_id, "layer_susceptibility", mode=mode)
    stability = found[1]
    gammas = sorted(float(value) for value in stability["gamma"].unique())
    gamma = link.pick("gamma", gammas, gammas[len(gammas) // 2] if gammas else None)
    catalog = page.data("models").set_index("model")
    layers = [int(layer) for layer in run_names.as_list(catalog.loc[run["model"], "moe_layers"])]
    default_layer = None
    if not stability.empty:
        at = stability[stability["gamma"] == gamma]
        default_layer = int(at.sort_values("jaccard")["layer"].iloc[0])
    link.pick("layer", layers, default_layer if default_layer is not None else layers[0])
    datasets = run_names.as_list(run["datasets"])
    link.pick("dataset", datasets, datasets[0] if datasets else None)
    link.pick("weighting", list(WEIGHTINGS), "share")
    link.pick("quantity", list(QUANTITIES), "accuracy")
    link.commit()
    with st.container(horizontal=True, gap="small"):
        with st.container(width=420):
            link.select("run", "Run", run_ids, show=page.label)
        with st.container(width=130):
            link.select("layer", "Layer", layers)
        if gammas:
            with st.container(width=150):
                link.select("gamma", "Noise level γ", gammas, show=lambda value: f"{value:g}")
        if datasets:
            with st.container(width=240):
                link.select("dataset", "Data set of the load", datasets)
    page.banners([run_id])
    link.select("mode", "Where the noise acts", list(MODES), show=lambda name: MODES[name], kind="buttons")
    if stability.empty:
        states.empty(
            "No stability test for this experiment",
            "vmoer run SPEC.yaml   # with `susceptibility` among its stages",
            why="It re-runs each router on slightly noisy inputs and counts which experts change.",
        )
    else:
        draw_stability(page, run_id, found, layers)
    draw_leverage(page, run_id, layers)
    if datasets:
        draw_load(page, run_id, layers)
    draw_layer(page, run_id, stability)


render()
