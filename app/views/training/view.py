"""Training: how a run's routers learned, layer by layer, and at which step they were kept."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.pages import path_of
from app.shared import runs as run_names
from app.shared import states
from app.shared.figure import figure
from app.shared.format import number
from app.shared.page import Page, open_page
from app.shared.text import plain
from app.views.training import charts
from vmoer.metrics import DEFINITIONS

PATH = path_of("training")
#: quantities logged per layer, and what the page calls them
PER_LAYER = {
    "kl": "KL to the prior (nats per token)",
    "posterior_std": "posterior std of the logits",
    "prior_std": "prior std of the logits",
    "temperature": "selection temperature",
    "logit_std": "std over experts of the native logits",
    "beta": "β, the weight of the KL",
    "posterior_weight_std": "posterior std of the weights",
    "snapshots": "weights averaged",
}


def log_of(page: Page, run_id: str) -> tuple[str, pd.DataFrame]:
    """The training log of the run's routers: its own, or that of the run of the same method that trained them."""
    run = page.run(run_id)
    family = run_names.siblings(page.runs, run_id)
    shared = family[(family["method"] == run["method"]) & (family["control"] == "none")]["run_id"].tolist()
    for candidate in dict.fromkeys([run_id, *(shared if run["control"] == "none" else [])]):
        rows = page.data("training_log", candidate)
        if not rows.empty:
            return candidate, rows
    return run_id, page.data("training_log", run_id)


def explain_absence(page: Page, run_id: str) -> None:
    """Why this run has no log, and the spec that gives one."""
    run = page.run(run_id)
    if run["method"] == "deterministic":
        why = "A deterministic run has no Bayesian routers to train."
    elif run["control"] == "untrained":
        why = "This control keeps its heads as initialised: not being trained is its purpose."
    else:
        came = {"shipped": "with VMoER"}.get(str(run["routers"]), f"from {plain(run['routers'] or 'elsewhere')}")
        why = f"Its routers came {came}; the store holds no log of their training."
    states.empty(
        "No training log for this run",
        "vmoer run SPEC.yaml   # with `routers: {train: {data: …, validation: …}}`",
        why=f"{why} A run that trains its routers logs every step here; `vmoer train` writes routers to a folder.",
    )


def draw_losses(page: Page, source: str, log: pd.DataFrame) -> None:
    """Losses, with the step that was kept in words."""
    rows = log[log["quantity"].isin(list(charts.LOSSES))].reset_index(drop=True)
    best = charts.best_step(log, str(page.run(source)["method"]))
    last = int(log["step"].max())
    said = "No validation was logged."
    if best is not None:
        first = log[log["quantity"] == "validation_nll"].sort_values("step").iloc[0]
        gained = first["value"] - best[1]
        said = (
            f"The weights of step {best[0]:,} of {last:,} were kept (pink line): validation NLL {number(best[1])}, "
            f"{number(gained)} nats below the first check."
        )
        if best[0] == 0:
            said = f"The weights that training began with were kept: no check within {last:,} steps was better."
        elif best[0] < last:
            said += f" The {last - best[0]:,} steps after it brought nothing more: early stop."
    figure(
        "Losses",
        charts.losses(rows, best=best[0] if best else None),
        rows,
        key="losses",
        note=f"{last:,} optimiser steps, one training run, no interval; lower is better. {said}",
        alt_text=f"Loss, task loss and validation NLL over steps. {said}",
        card=page.card([source], "Losses", "training_log"),
        explains=("nll", "kl"),
    )


def draw_layers(page: Page, source: str, log: pd.DataFrame, quantities: list[str]) -> None:
    """One quantity over steps and layers."""
    quantity = str(page.link.values["quantity"])
    page.link.select("quantity", "Per layer", quantities, show=lambda name: PER_LAYER.get(name, name), kind="buttons")
    rows = log[(log["quantity"] == quantity) & (log["layer"] >= 0)].reset_index(drop=True)
    layers = [int(layer) for layer in sorted(rows["layer"].unique())]
    ends = rows.sort_values("step").groupby("layer")["value"].agg(["first", "last"])
    said = (
        f"Mean over layers {number(ends['first'].mean())} at the first step, {number(ends['last'].mean())} at the last."
    )
    title = PER_LAYER.get(quantity, quantity)
    figure(
        f"{title[0].upper()}{title[1:]}, layer by layer",
        charts.per_layer(rows, layers, title=title),
        rows,
        key="layers",
        note=f"{len(layers)} trained layer{'s' if len(layers) > 1 else ''} × {rows['step'].nunique():,} logged steps. "
        f"{said}",
        alt_text=f"{title} per optimiser step and layer. {said}",
        card=page.card([source], title, "training_log"),
        explains=tuple(name for name in (quantity,) if name in DEFINITIONS),
    )


def draw_posterior(page: Page, run_id: str) -> None:
    """How far the posterior is from its prior, as measured before the run; nothing for a run that was not measured."""
    found = run_names.posterior(page.run(run_id))
    rows = pd.DataFrame(found.get("layers", []))
    if rows.empty or rows["kl"].isna().all():
        return
    widths, between = rows["width"].dropna(), rows["between"].dropna()
    said = f"Learned: {found['why']}. " if found["learned"] else ""  # a banner says it of one that has not
    if len(widths):
        said += f"σ ÷ prior {widths.min():.2f} to {widths.max():.2f}. "
    if len(between):
        said += f"Between tokens the summed logit variance differs by {between.min():.1%} to {between.max():.1%}. "
    figure(
        "Distance from the prior, layer by layer",
        charts.prior_distance(rows, found["kl_limit"]),
        rows,
        key="posterior",
        note=f"{said}A posterior below the line in every layer counts as its prior. Means over the tokens of 32 "
        "calibration questions.",
        alt_text=f"KL divergence to the prior per layer. {said}",
        card=page.card([run_id], "Distance from the prior", "runs"),
        explains=("kl", "learned"),
    )


def render() -> None:
    """Draw the page."""
    page = open_page(
        PATH,
        "Training",
        "How did the routers learn: did the loss fall, did any layer's posterior collapse, and when was it enough?",
    )
    link = page.link
    run_ids = page.runs["run_id"].tolist()
    trained = run_names.default_run(page.with_rows("training_log"))
    run_id = link.pick("run", run_ids, trained or run_names.default_run(page.runs))
    assert run_id is not None
    source, log = log_of(page, run_id)
    found = list(dict.fromkeys(log.loc[log["layer"] >= 0, "quantity"]))
    quantities = sorted(found, key=lambda name: list(PER_LAYER).index(name) if name in PER_LAYER else len(PER_LAYER))
    # A posterior that is fitted after training stays flat in the log; what moved is worth seeing first.
    spread = log[log["layer"] >= 0].groupby("quantity")["value"].agg(lambda values: values.max() - values.min())
    moved = [name for name in quantities if spread[name] > 0] or quantities
    link.pick("quantity", quantities, moved[0] if moved else None)
    link.commit()
    with st.container(width=560):
        link.select("run", "Run", run_ids, show=page.option)
    page.banners([run_id])
    draw_posterior(page, run_id)
    if log.empty:
        explain_absence(page, run_id)
        return
    if source != run_id:
        st.caption(f"The runs of one method share their routers; these were trained for {plain(page.label(source))}.")
    draw_losses(page, source, log)
    if quantities:
        draw_layers(page, source, log, quantities)


render()
