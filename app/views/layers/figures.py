"""Figures of the stability of routing: the heatmap, one noise level in depth, runs on one scale, the quadrants."""

from __future__ import annotations

import pandas as pd

from app.figures import stability as depth
from app.shared import runs as run_names
from app.shared.figure import Figure
from app.shared.format import interval, number
from app.shared.link import click_layer
from app.shared.page import Page
from app.shared.text import counted
from app.views.layers import charts
from app.views.layers.charts import stability_by_run
from app.views.layers.measurements import Measured, measured_on, source_note

MEASURES = {"jaccard": "Jaccard", "instability": "1 − Jaccard above chance"}
COSTS = {"accuracy": "accuracy lost when routing is random", "nll": "NLL gained when routing is random (nats)"}


def carried(page: Page, run_id: str) -> list[int]:
    """The layers in which the run has a Bayesian router."""
    return [int(one) for one in run_names.as_list(page.run(run_id)["layers"])]


def heatmap(page: Page, run_id: str, found: Measured, layers: list[int]) -> Figure | None:
    """Layer × noise level."""
    source, rows = found
    link = page.link
    gamma, measure = link.level("gamma"), link.text("measure")
    at = rows[rows["gamma"] == gamma]
    susceptible = sorted(at.loc[at["susceptible"].astype(bool), "layer"].astype(int))
    listed = ", ".join(map(str, susceptible)) or "none"
    table = rows.assign(instability=depth.instability(rows["jaccard"], rows["chance"]))
    better = "higher = more stable" if measure == "jaccard" else "lower = more stable"
    least = at.sort_values("jaccard").iloc[0]
    return Figure(
        "Stability of routing under noise",
        charts.stability_heatmap(rows, layers, measure=measure, layer=link.index("layer"), gamma=gamma),
        table,
        key="stability",
        note=f"{MEASURES[measure]} of clean and noisy expert sets, mean over {counted(int(rows['n'].max()), 'token')}; "
        f"{better}. White dots: susceptible; {len(susceptible)} of {len(at)} layers at γ = {gamma:g} ({listed}). "
        f"Least stable there: layer {int(least['layer'])} (Jaccard {number(least['jaccard'])}). "
        f"Click a layer for its details below.{source_note(page, run_id, source)}",
        alt_text=f"{MEASURES[measure]} per layer and noise level; susceptible at γ = {gamma:g}: {listed}",
        card=page.card([source], "Stability of routing", f"layer_susceptibility, mode {link.text('mode')}"),
        explains=("jaccard", "instability", "chance", "susceptible"),
        selection="layer",
        on_select=click_layer,
    )


def violins(page: Page, run_id: str, found: Measured, layers: list[int]) -> Figure | None:
    """The spread over tokens at the chosen noise level, with the rule as a line."""
    source, rows = found
    gamma = page.link.level("gamma")
    at = rows[rows["gamma"] == gamma].reset_index(drop=True)
    susceptible = sorted(at.loc[at["susceptible"].astype(bool), "layer"].astype(int))
    listed = ", ".join(map(str, susceptible)) or "none"
    return Figure(
        f"At γ = {gamma:g}: {len(susceptible)} of {len(at)} layers susceptible",
        depth.stability_violins(at, layers, chosen=carried(page, run_id), layer=page.link.index("layer")),
        at,
        key="profile",
        note=f"Susceptible layers: {listed}. Violins: {counted(int(at['n'].max()), 'token')} (drawn from seven "
        "quantiles), dash: median, point and line: mean with 95 % interval. The rule: mean Jaccard below "
        f"{at['threshold'].mean():.3f} (chance level {at['chance'].mean():.3f}). "
        f"Pink triangles: layers that carry a Bayesian router in this run.{source_note(page, run_id, source)}",
        alt_text=f"Spread of Jaccard per layer at noise level {gamma:g} with the susceptibility threshold",
        card=page.card([source], "Stability of routing", f"layer_susceptibility, mode {page.link.text('mode')}"),
        explains=("susceptible", "jaccard", "chance"),
        selection="layer",
        on_select=click_layer,
    )


def run_series(page: Page, run_id: str, gamma: float, mode: str) -> tuple[pd.DataFrame, list[str]]:
    """Jaccard per layer of every run of the experiment that was tested, and of each Bayesian choice without noise."""
    family = run_names.siblings(page.runs, run_id)
    names = {row["run_id"]: run_names.describe(row) for row in run_names.records(family)}
    tested = page.data("layer_susceptibility", run_ids=tuple(names), mode=mode)
    parts, used = [], []
    for one, name in names.items():
        rows = tested[(tested["run_id"] == one) & (tested["gamma"] == gamma)]
        if not rows.empty:
            parts.append(rows.assign(series=f"{name}: noise γ = {gamma:g}"))
            used.append(one)
    stats = page.data("layer_stats", run_ids=tuple(names))
    for one, name in names.items():
        own = carried(page, one)
        rows = stats[(stats["run_id"] == one) & stats["layer"].isin(own)]
        if not rows.empty:
            parts.append(rows.assign(series=f"{name}: native and Bayesian choice", jaccard=rows["mean_jaccard"]))
            used.append(one)
    floor = page.data("noise_floor", run_ids=tuple(names))
    # A property of the model: the first run of the ladder that measured it stands for all.
    first = next((one for one in names if one in set(floor["run_id"])), None)
    for (one, comparison), rows in floor[floor["run_id"] == first].groupby(["run_id", "comparison"], sort=False):
        # Its interval is that of the share of changed sets, not of the Jaccard index.
        drawn = rows.assign(ci_low=None, ci_high=None)
        parts.append(drawn.assign(series=f"noise floor: {comparison} and float32"))
        used.append(str(one))
    columns = ["series", "run_id", "layer", "jaccard", "ci_low", "ci_high", "n"]
    if not parts:
        return pd.DataFrame(columns=columns), []
    return pd.concat(parts, ignore_index=True).reindex(columns=columns), list(dict.fromkeys(used))


def floor_text(rows: pd.DataFrame) -> str:
    """What number formats alone do, or how to measure it."""
    if rows["series"].str.startswith("noise floor").any():
        return "Instability no larger than the numeric noise floor says nothing about the model."
    return (
        "No numeric noise floor is stored for this experiment; `vmoer run SPEC.yaml` with `susceptibility` among its "
        "stages measures it."
    )


def runs(page: Page, run_id: str, found: Measured, layers: list[int]) -> Figure | None:
    """Deterministic and Bayesian runs of the experiment on one scale; nothing where only one was tested."""
    gamma, mode = page.link.level("gamma"), page.link.text("mode")
    rows, used = run_series(page, run_id, gamma, mode)
    at = found[1][found[1]["gamma"] == gamma]
    if rows["series"].nunique() < 2:
        return None
    means = rows.groupby("series", sort=False)["jaccard"].mean()
    said = "; ".join(f"{name} {number(value)}" for name, value in means.items())
    return Figure(
        "Deterministic and Bayesian routers on one scale",
        stability_by_run(
            rows,
            layers,
            threshold=float(at["threshold"].mean()),
            chance=float(at["chance"].mean()),
            chosen=carried(page, run_id),
        ),
        rows,
        key="runs",
        note=f"Higher = steadier; 95 % intervals where stored. Mean over layers: {said}. {floor_text(rows)}",
        alt_text=f"Jaccard per layer and run at noise level {gamma:g}: {said}",
        card=page.card(used, "Stability by run", f"layer_susceptibility, mode {mode}; layer_stats"),
        explains=("jaccard", "overlap", "in-router"),
        selection="layer",
        on_select=click_layer,
    )


def quadrant(page: Page, run_id: str, found: Measured, layers: list[int]) -> Figure | None:
    """Which layers are unstable, and whether it matters there; nothing without leverage."""
    gamma, quantity = page.link.level("gamma"), page.link.text("quantity")
    source, leverage = measured_on(page, run_id, "layer_leverage")
    single = leverage[(leverage["scope"] == "layer") & (leverage["intervention"] == "random-routing")]
    at = found[1][found[1]["gamma"] == gamma]
    rows = depth.quadrant_table(at, single, quantity=quantity, chosen=carried(page, run_id))
    if rows.empty:
        return None
    urgent = sorted(rows.loc[rows["quadrant"] == depth.QUADRANTS[1], "layer"].astype(int))
    said = ", ".join(map(str, urgent)) or "none"
    least = rows.sort_values("instability").iloc[-1]
    cost = interval(least["cost"], least["cost_low"], least["cost_high"], percent=quantity == "accuracy", signed=True)
    return Figure(
        f"Unstable, and it matters: {len(urgent)} of {len(rows)} layers",
        depth.quadrant(rows, title=COSTS[quantity], percent=quantity == "accuracy", layer=page.link.index("layer")),
        rows,
        key="quadrant",
        note=f"Layers in the upper right: {said}. Least stable: layer {int(least['layer'])}, {least['quadrant']}; "
        f"random routing there costs {cost}. Right of the line: susceptible at γ = {gamma:g}. A layer matters "
        f"where the 95 % interval of its cost lies above 0 ({int(rows['draws'].min())} random draws). These layers are "
        "where a Bayesian router can help; numbers beside the points are layers.",
        alt_text=f"Instability against leverage per layer; unstable and it matters: {said}",
        card=page.card(
            list(dict.fromkeys([found[0], source])), "Instability × leverage", "layer_susceptibility, layer_leverage"
        ),
        explains=("instability", "susceptible", f"{quantity}_change"),
        selection="layer",
        on_select=click_layer,
    )
