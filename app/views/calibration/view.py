"""Calibration: reliability diagrams per run and data set, and the numbers behind them with intervals."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.figures import paired as compare
from app.figures.palette import ROLE_LABELS
from app.figures.reliability import (
    CURVE_POINTS,
    FEW,
    direction,
    reliability_diagram,
    risk_coverage,
    risk_coverage_points,
)
from app.figures.verdict import UNCLEAR, verdict
from app.pages import path_of
from app.shared import runs as run_names
from app.shared import states
from app.shared.after_first_chart import after_first_chart
from app.shared.choice_row import choice_row
from app.shared.figure import Tile, figure, heading
from app.shared.format import interval, is_percent, missing, number
from app.shared.page import Page, open_page
from app.shared.text import plain
from app.views.calibration.baselines import answer, draw_baselines
from vmoer.metrics import definition

PATH = path_of("calibration")
TITLES = {
    "ece": "ECE",
    "ece_adaptive": "adaptive ECE",
    "mce": "MCE",
    "nll": "NLL (nats)",
    "brier": "Brier",
    "aurc": "AURC",
}
PAIRED = ("accuracy", "ece", "mce", "nll", "brier")
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


def diagrams(page: Page, dataset: str, run_ids: list[str], calibrations: list[str], scheme: str) -> bool:
    """The reliability diagrams of one data set: runs side by side, raw and scaled, counts on one axis; whether any."""
    parts = []
    for calibration in calibrations:
        rows = page.data("reliability", tuple(run_ids), dataset, calibration=calibration, scheme=scheme)
        parts.append(rows)
    bins = pd.concat(parts, ignore_index=True)
    if bins.empty or not bins["n"].sum():
        st.info(f"No answers on {plain(dataset)} are stored for these runs.")
        return False
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
    return True


def numbers(page: Page, run_ids: list[str], datasets: list[str], calibrations: list[str]) -> None:
    """The table of calibration metrics, one row per run, data set and calibration."""
    wanted = [f"{metric}{suffix}" for metric in (*METRICS, "overconfidence") for suffix in ("", "_ts")]
    metrics = page.data("metrics", run_ids=tuple(run_ids), names=(*wanted, "temperature", "aurc"))
    metrics = metrics[metrics["dataset"].isin(datasets) & metrics["score"].isin(["", "answer_entropy"])]
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
                cell = {} if suffix else here.get("aurc", {})
                row["aurc"] = interval(cell.get("value"), cell.get("ci_low"), cell.get("ci_high"), percent=True)
                row["T"] = number(here.get("temperature", {}).get("value")) if suffix else "–"
                rows.append(row)
    heading(
        "Calibration in numbers",
        "95 % intervals in brackets. ECE and MCE over 15 bins are biased upwards on few examples; "
        "read them beside NLL.",
        key="numbers",
        card=page.card(run_ids, "Calibration", "metrics"),
        table=metrics.reset_index(drop=True),
        explains=(*METRICS, "aurc", "overconfidence", "temperature"),
    )
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        key="numbers.frame",
        alt="Calibration metrics per run and data set",
        column_config={name: st.column_config.TextColumn(title) for name, title in TITLES.items()},
    )


def draw_risk(page: Page, dataset: str, run_ids: list[str]) -> None:
    """Risk over coverage of the chosen runs, with AURC in the note."""
    parts = []
    for run_id in run_ids:
        answers = page.data("predictions", run_id, dataset)
        if not answers.empty:
            parts.append(risk_coverage_points(answers, page.label(run_id)).assign(run_id=run_id))
    if not parts:
        return
    rows = pd.concat(parts, ignore_index=True)
    stored = page.data("metrics", run_ids=tuple(run_ids), dataset=dataset, names=("aurc",))
    stored = stored[stored["score"] == "answer_entropy"].set_index("run_id")
    said = []
    for run_id in rows["run_id"].unique():
        if run_id in stored.index:
            cell = stored.loc[run_id]
            area = interval(cell["value"], cell["ci_low"], cell["ci_high"], percent=True)
            said.append(f"{page.label(run_id)} {area}")
    figure(
        f"Risk over coverage on {dataset}",
        risk_coverage(rows, order=[page.label(run_id) for run_id in run_ids]),
        rows,
        key=f"risk.{dataset}",
        note=f"Error rate if only the surest answers (lowest answer entropy) were given; lower is better; "
        f"n = {int(rows['n'].max()):,}; at most {CURVE_POINTS} points of each curve are drawn. "
        f"AURC, 95 %: {'; '.join(said) or 'not stored'}.",
        alt_text=f"Risk over coverage on {dataset}. AURC: {'; '.join(said) or 'not stored'}",
        card=page.card(run_ids, f"Risk over coverage on {dataset}", "predictions, metrics"),
        explains=("risk_coverage", "aurc", "answer_entropy"),
    )


def paired_rows(page: Page, run_ids: list[str], datasets: list[str]) -> pd.DataFrame:
    """Stored paired differences of the chosen runs from their deterministic run on the chosen data sets."""
    parts = []
    for run_id in run_ids:
        baseline = run_names.deterministic_of(page.runs, run_id)
        rows = page.data("comparisons", run_id, names=PAIRED)
        rows = rows[(rows["baseline_run_id"] == baseline) & rows["dataset"].isin(datasets)]
        parts.append(rows.assign(run=[f"{run_names.describe(page.run(run_id))} · {one}" for one in rows["dataset"]]))
    return pd.concat(parts, ignore_index=True)


def draw_paired(page: Page, run_ids: list[str], datasets: list[str]) -> None:
    """Paired differences from the deterministic run, one small chart per metric."""
    rows = paired_rows(page, run_ids, datasets)
    if rows.empty:
        st.caption(
            "No paired differences: choose a Bayesian run whose experiment has a deterministic run. Two bars with "
            "separate intervals would not tell whether a difference is real; the Compare page pairs any two runs."
        )
        return
    ends = zip(rows["ci_low"], rows["ci_high"], rows["direction"], strict=True)
    rows["verdict"] = [verdict(*one) for one in ends]
    tiles = []
    for metric in PAIRED:
        part = rows[rows["metric"] == metric].drop_duplicates("run")
        if not part.empty:
            better = definition(metric).direction
            chart = compare.differences(part, title="difference", percent=is_percent(metric), row="run")
            tiles.append(Tile(f"{TITLES.get(metric, metric)}, {better} is better", chart, width=400))
    clear = rows[rows["verdict"] != UNCLEAR]
    said = "; ".join(
        f"{TITLES.get(row['metric'], row['metric'])} of {row['run']}: {row['verdict'].removeprefix('second run ')}"
        for row in run_names.records(clear)
    )
    figure(
        "Against the deterministic run, question by question",
        tiles,
        rows,
        key="paired",
        note="Run − deterministic run, paired on the same questions, 95 % intervals, stored with the run. ▲ better, "
        f"▼ worse, ● no clear difference. In words: {said or 'no interval excludes zero'}.",
        alt_text=f"Paired differences from the deterministic run: {said or 'no interval excludes zero'}",
        card=page.card(run_ids, "Paired differences", "comparisons"),
        explains=PAIRED,
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
    with choice_row():
        with st.container(width=640):
            link.select_many("runs", "Runs", options, show=page.option, limit=page.settings.max_runs)
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

    def rest() -> None:
        draw_baselines(page, run_ids, datasets)
        draw_paired(page, run_ids, datasets)
        draw_risk(page, datasets[0], run_ids)
        for dataset in datasets[1:]:
            diagrams(page, dataset, run_ids, calibrations, scheme)
            draw_risk(page, dataset, run_ids)
        numbers(page, run_ids, datasets, calibrations)

    answer(page, run_ids, datasets[0])
    if diagrams(page, datasets[0], run_ids, calibrations, scheme):
        after_first_chart(PATH, rest)
    else:
        rest()


render()
