"""Layer susceptibility: where routing is unstable under noise, where it matters, and one layer down to its tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import streamlit as st

from app.downloads.files import Section
from app.drilldown import layer as depth
from app.figures import leverage as charts
from app.pages import path_of
from app.shared import runs as run_names
from app.shared import states
from app.shared.after_first_chart import after_first_chart
from app.shared.choice_row import choice_row
from app.shared.figure import Figure
from app.shared.format import interval, number
from app.shared.link import click_layer
from app.shared.page import Page, open_page
from app.shared.page_file import add_figure
from app.shared.stepper import stepper
from app.views.layers import figures as stability
from app.views.layers.measurements import Measured, measured_on, source_note

PATH = path_of("layers")
MODES = {
    "router": "in this router only",
    "propagated": "through the network",
    "redrawn": "in this router, another draw",
}
QUANTITIES = {"accuracy": "accuracy", "nll": "NLL"}


def leverage(page: Page, run_id: str, found: Measured, layers: list[int]) -> Figure | None:
    """What random routing costs per layer, with the totals of all chosen layers in words; nothing where unmeasured."""
    source, rows = measured_on(page, run_id, "layer_leverage")
    if rows.empty:
        return None
    quantity = page.link.text("quantity")
    single = rows[(rows["scope"] == "layer") & (rows["intervention"] == "random-routing")].reset_index(drop=True)
    together = rows[(rows["scope"] != "layer") & (rows["intervention"] == "random-routing")]
    percent = quantity == "accuracy"
    value = f"{quantity}_change"
    totals = " ".join(
        f"{'All chosen' if row['scope'] == 'chosen' else 'All MoE'} layers together: "
        f"{interval(row[value], row[f'{quantity}_ci_low'], row[f'{quantity}_ci_high'], percent=percent, signed=True)}."
        for row in run_names.records(together)
    )
    direction = "below 0 = routing matters" if percent else "above 0 = routing matters"
    return Figure(
        "Leverage: what uniformly random routing costs, layer by layer",
        charts.leverage_bars(
            single,
            layers,
            quantity=quantity,
            chosen=stability.carried(page, run_id),
            layer=page.link.index("layer"),
        ),
        rows,
        key="leverage",
        note=f"Change of {QUANTITIES[quantity]} ({direction}); {int(single['n'].max()):,} questions × "
        f"{int(single['draws'].min())} draws, paired 95 % intervals. {totals}{source_note(page, run_id, source)}",
        alt_text=f"Change of {QUANTITIES[quantity]} per layer when its routing is drawn at random",
        card=page.card([source], "Leverage", "layer_leverage"),
        explains=(value,),
        selection="layer",
        on_select=click_layer,
    )


#: what the page can show above the layer: name, the function that makes its figure, the choices that change it
VIEWS: dict[str, tuple[str, Callable[[Page, str, Measured, list[int]], Figure | None], tuple[str, ...]]] = {
    "noise": ("Layer × noise", stability.heatmap, ("mode", "measure")),
    "spread": ("Spread over tokens", stability.violins, ("mode",)),
    "runs": ("Runs on one scale", stability.runs, ("mode",)),
    "leverage": ("Leverage", leverage, ("quantity",)),
    "quadrant": ("Does it matter?", stability.quadrant, ("mode", "quantity")),
}
CHOICES = {
    "mode": ("Where the noise acts", MODES),
    "measure": ("Colour", stability.MEASURES),
    "quantity": ("Leverage in", QUANTITIES),
}


def draw_view(page: Page, run_id: str, found: Measured, layers: list[int]) -> bool:
    """The chosen figure, or what is missing for it; the others go into the page's file as well. Whether it is there."""
    view = page.link.text("view")
    for name, (_, make, _) in VIEWS.items():
        if name != view and not (found[1].empty and name != "leverage"):
            add_figure(name, partial(_section, make, page, run_id, found, layers))
    if found[1].empty and view != "leverage":
        page.absent(
            run_id,
            "No stability test for this experiment",
            "vmoer run SPEC.yaml   # with `susceptibility` among its stages",
            why="It re-runs each router on slightly noisy inputs and counts which experts change.",
        )
        return False
    figure = VIEWS[view][1](page, run_id, found, layers)
    if figure is not None:
        figure.draw()
    elif view == "runs":
        st.caption(
            "Only one run of this experiment was tested for stability. `vmoer run SPEC.yaml` with a Bayesian method "
            "and `susceptibility` among its stages puts deterministic and Bayesian routers on one scale here."
        )
    else:
        states.empty(
            "No leverage for this experiment",
            "vmoer run SPEC.yaml   # with `leverage` among its stages",
            why="Leverage is what random routing costs a layer: an unstable layer without leverage is harmless.",
        )
    return figure is not None


def _section(
    make: Callable[[Page, str, Measured, list[int]], Figure | None],
    page: Page,
    run_id: str,
    found: Measured,
    layers: list[int],
) -> Section | None:
    figure = make(page, run_id, found, layers)
    return None if figure is None else figure.section()


def tiles(page: Page, run_id: str, layer: int, rows: pd.DataFrame) -> None:
    """The layer's stability and leverage as two numbers."""
    at = rows[(rows["layer"] == layer) & (rows["gamma"] == page.link.values["gamma"])]
    leverage = measured_on(page, run_id, "layer_leverage")[1]
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
            )
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
            )


def draw_layer(page: Page, run_id: str, rows: pd.DataFrame, layers: list[int], examples: list[str]) -> None:
    """All that is known of the chosen layer."""
    values = page.link.values
    layer, dataset, by = page.link.index("layer"), values["dataset"], values["by"]
    assert layer is not None
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"### Layer {layer}", anchors=False, width="content")
        stepper("layer", layers, layer, "layer")
        query = {"run": run_id, "layer": str(layer)} | ({"dataset": str(dataset)} if dataset else {})
        st.page_link(path_of("experts"), label="Experts of this layer →", query_params=query)
    # without a trace there is nothing to stand beside the numbers
    left, right = st.columns([1, 4], gap="medium") if examples else (st.container(), st.container())
    with left:
        tiles(page, run_id, layer, rows)
    with right:
        depth.draw_experts(page, run_id, layer, str(values["weighting"]))
    if not examples or by is None:
        page.absent(
            run_id,
            f"No routing was traced in layer {layer} for this run",
            "vmoer run SPEC.yaml   # with `trace` among its stages",
            why="Tokens and questions of a layer come from the trace; a control run on top of another has none.",
        )
        return
    page.link.select(
        "by",
        "Least sure, by",
        depth.rankings(page, run_id, layer),
        show=lambda name: depth.RANKINGS[name][0],
        kind="buttons",
    )
    depth.draw_tokens(page, run_id, str(dataset), layer, str(by))
    depth.draw_strip(page, run_id, str(dataset), layer, str(by), examples)


def choices(page: Page, run_id: str, gammas: list[float], layers: list[int], datasets: list[str]) -> None:
    """The selectors at the top of the page."""
    link = page.link
    with choice_row():
        with st.container(width=420):
            link.select("run", "Run", page.runs["run_id"].tolist(), show=page.option)
        with st.container(width=130):
            link.select("layer", "Layer", layers)
        if gammas:
            with st.container(width=150):
                link.select("gamma", "Noise level γ", gammas, show=lambda value: f"{value:g}")
        if datasets:
            with st.container(width=240):
                link.select("dataset", "Data set of tokens", datasets)
    page.banners([run_id])
    link.select("view", "Show", list(VIEWS), show=lambda name: VIEWS[name][0], kind="buttons")
    with st.container(horizontal=True, gap="medium"):
        for name in VIEWS[link.text("view")][2]:
            title, options = CHOICES[name]
            link.select(name, title, list(options), show=options.__getitem__, kind="buttons")


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
    rows = found[1]
    gammas = sorted(float(value) for value in rows["gamma"].unique())
    gamma = link.pick("gamma", gammas, gammas[len(gammas) // 2] if gammas else None)
    layers = page.layers(run["model"])
    default_layer = None
    if not rows.empty:
        default_layer = int(rows[rows["gamma"] == gamma].sort_values("jaccard")["layer"].iloc[0])
    layer = link.pick("layer", layers, default_layer if default_layer is not None else layers[0])
    datasets = page.datasets(run_id)
    dataset = link.pick("dataset", datasets, datasets[0] if datasets else None)
    link.pick("measure", list(stability.MEASURES), "jaccard")
    link.pick("weighting", list(depth.WEIGHTINGS), "share")
    link.pick("quantity", list(QUANTITIES), "accuracy")
    link.pick("view", list(VIEWS), "noise")
    assert layer is not None
    ranks = depth.rankings(page, run_id, layer)
    traced = dataset is not None and not page.data("layer_stats", run_ids=(run_id,), dataset=dataset).empty
    link.pick("by", ranks, ranks[0])
    examples = depth.example_options(page, run_id, dataset) if traced and dataset is not None else []
    link.pick("example", examples, examples[0] if examples else None)
    link.commit()
    choices(page, run_id, gammas, layers, datasets)
    rest = partial(draw_layer, page, run_id, rows, layers, examples)
    if draw_view(page, run_id, found, layers):
        after_first_chart(PATH, rest)
    else:
        rest()


render()
