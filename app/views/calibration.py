"""Calibration: reliability diagrams per run and data set, and the numbers behind them with intervals."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import runs as run_names
from app.charts.calibration import FEW, direction, reliability_diagram
from app.components import states
from app.components.figure import Tile, figure, heading
from app.components.format import interval, is_percent, missing, number
from app.components.page import Page, open_page
from app.components.text import plain
from app.palette import ROLE_LABELS

PATH = "views/calibration.py"
METRICS = ("accuracy", "ece", "ece_adaptive", "mce", "nll", "brier")
CALIBRATIONS = {"raw": "raw", "temperature-scaled": "temperature-scaled", "both": "both"}
SCHEMES = {"equal-width": "equal-width bins", "adaptive": "adaptive (equal-mass) bins"}


def confidence_gap(bins: pd.DataFrame) -> float:
    """Mean confidence minus accuracy over all examples of a diagram; above 0 = over-confident."""
    full = bins[bins["n"] > 0]
    return float(((full["mean_confidence"] - full["accuracy"]) * full["n"]).sum() / full["n"].sum())


def default_runs(page: Page) -> list[str]:
    """The run a reader would look at first, after its deterministic counterpart."""
    first = run_names.default_run(page.runs)
    assert first is not None
    baseline = run_names.deterministic_of(page.runs, first)
    return list(dict.fromkeys([baseline or first, first]))


def diagrams(page: Page, dataset: str, run_ids: list[str], calibrations: list[str], scheme: str) -> None:
    """The reliability diagrams of one data set: runs side by side, raw and scaled, counts on one axis."""
    parts = []
    for calibration in calibrations:
        rows = page.data("reliability", tuple(run_ids), dataset, calibration=calibration, scheme=scheme)
        parts.append(rows)
    bins = pd.concat(parts, ignore_index=True)
    if bins.empty or not bins["n"].sum():
        st.info(f"No answers on {plain(dataset)} are stored for these runs.")
        return
    values = page.data("metrics", run_ids=tuple(run_ids), dataset=dataset).set_index(["run_id", "metric"])["value"]
    top = float(bins["n"].max())
    tiles: list[Tile] = []
    said = []
    metric = "ece" if scheme == "equal-width" else "ece_adaptive"
    for run_id in run_ids:
        for calibration in calibrations:
            one = bins[(bins["run_id"] == run_id) & (bins["calibration"] == calibration)].sort_values("bin")
            if one.empty or not one["n"].sum():
                continue
            gap = confidence_gap(one)
            name = metric if calibration == "raw" else f"{metric}_ts"
            ece = values.get((run_id, name))
            run = page.run(run_id)
            verdict = f"{direction(gap)} by {number(abs(gap), percent=True)}"
            tiles.append(
                Tile(
                    run_names.describe(run) + (" · scaled" if calibration != "raw" else ""),
                    reliability_diagram(one, top=top),
                    [
                        str(run["model"]),
                        f"ECE {number(ece, percent=True)} · {verdict}",
                        f"n = {int(one['n'].sum()):,} · {int((one['n'] == 0).sum())} of {len(one)} bins empty",
                    ],
                )
            )
            said.append(f"{page.label(run_id)} ({calibration}) is {verdict}")
    figure(
        f"Reliability on {dataset}",
        tiles,
        bins,
        key=f"reliability.{dataset}",
        note=f"Accuracy over confidence per bin, {SCHEMES[scheme]}; on the dashed line confidence is earned, below it "
        f"(orange) the model is over-confident. Lines: Wilson 95 % intervals. "
        f"Hollow: under {FEW} examples. ×: empty bin.",
        alt_text=f"Reliability diagrams on {dataset}: " + "; ".join(said),
        card=page.card(run_ids, f"Reliability on {dataset}", "reliability"),
        explains=("reliability_diagram", metric, "temperature_scaling"),
    )


def numbers(page: Page, run_ids: list[str], datasets: list[str], calibrations: list[str]) -> None:
    """The table of calibration metrics, one row per run, data set and calibration."""
    metrics = page.data("metrics", run_ids=tuple(run_ids))
    metrics = metrics[metrics["dataset"].isin(datasets)]
    rows: list[dict[str, Any]] = []
    for dataset in datasets:
        for run_id in run_ids:
            for calibration in calibrations:
                suffix = "" if calibration == "raw" else "_ts"
                here = {
                    found["metric"]: found
                    for found in run_names.records(
                        metrics[(metrics["run_id"] == run_id) & (metrics["dataset"] == dataset)]
                    )
                }
                row: dict[str, Any] = {"data set": dataset, "run": page.label(run_id), "calibration": calibration}
                gap = here.get(f"overconfidence{suffix}", {}).get("value")
                row["direction"] = "–"
                if gap is not None and not missing(gap):
                    row["direction"] = f"{direction(gap)} by {number(abs(gap), percent=True)}"
                for metric in METRICS:
                    # One factor for all scores never changes which is largest, so accuracy has no twin to look up.
                    cell = here.get(metric if metric == "accuracy" else f"{metric}{suffix}", {})
                    bounds = (cell.get("value"), cell.get("ci_low"), cell.get("ci_high"))
                    row[metric] = interval(*bounds, percent=is_percent(metric))
                    if cell:
                        row["n"] = int(cell["n"])
                row["T"] = number(here.get("temperature", {}).get("value")) if suffix else "–"
                rows.append(row)
    kept = {f"{metric}{suffix}" for metric in (*METRICS, "overconfidence") for suffix in ("", "_ts")} | {"temperature"}
    heading(
        "Calibration in numbers",
        "95 % intervals in brackets. ECE and MCE over 15 bins are biased upwards on few examples; "
        "read them beside NLL.",
        key="numbers",
        card=page.card(run_ids, "Calibration", "metrics"),
        table=metrics[metrics["metric"].isin(kept)].reset_index(drop=True),
        explains=(*METRICS, "overconfidence", "temperature"),
    )
    titles = {"ece": "ECE", "ece_adaptive": "adaptive ECE", "mce": "MCE", "nll": "NLL (nats)", "brier": "Brier"}
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        key="numbers.frame",
        alt="Calibration metrics per run and data set",
        column_config={name: st.column_config.TextColumn(title) for name, title in titles.items()},
    )


def render() -> None:
    """Draw the page."""
    page = open_page(
        PATH,
        "Calibration",
        "When the model says it is 80 % sure, is it right 80 % of the time? Runs side by side, same scale.",
    )
    link = page.link
    options = page.runs["run_id"].tolist()
    run_ids = list(link.pick_many("runs", options, default_runs(page), page.settings.max_runs))
    roles: dict[str, str] = {}
    for run_id in run_ids:
        run = page.run(run_id)
        catalog = page.data("datasets", experiment=run["experiment"]).set_index("dataset")["role"]
        roles |= {name: catalog.get(name, "validation") for name in run_names.as_list(run["datasets"])}
    order = list(ROLE_LABELS)
    available = sorted(roles, key=lambda name: (order.index(roles[name]), name))
    inside = [name for name in available if roles[name] == "in-distribution"]
    datasets = list(link.pick_many("datasets", available, (inside or available)[:1]))
    calibration = str(link.pick("calibration", list(CALIBRATIONS), "both"))
    scheme = str(link.pick("scheme", list(SCHEMES), "equal-width"))
    link.commit()
    link.select_many("runs", "Runs", options, show=page.label, limit=page.settings.max_runs)
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        with st.container(width=380):
            link.select_many(
                "datasets", "Data sets", available, show=lambda name: f"{name} ({ROLE_LABELS[roles[name]]})"
            )
        link.select(
            "calibration", "Probabilities", list(CALIBRATIONS), show=lambda name: CALIBRATIONS[name], kind="buttons"
        )
        link.select("scheme", "Bins", list(SCHEMES), show=lambda name: SCHEMES[name], kind="buttons")
    page.banners(run_ids)
    if not datasets:
        states.empty("These runs have no answers", "vmoer run SPEC.yaml   # with `evaluate` among its stages")
        return
    calibrations = ["raw", "temperature-scaled"] if calibration == "both" else [calibration]
    for dataset in datasets:
        diagrams(page, dataset, run_ids, calibrations, scheme)
    numbers(page, run_ids, datasets, calibrations)


render()
