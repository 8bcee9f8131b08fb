"""Overview: every run with its main numbers, the ladder of baselines and controls, jobs, and where to go next."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.figures.palette import ROLE_LABELS
from app.pages import PAGES, PageEntry, path_of
from app.shared import runs as run_names
from app.shared.figure import Tile, figure, heading
from app.shared.format import interval, is_percent
from app.shared.link import go
from app.shared.page import Page, open_page
from app.shared.text import plain
from app.views.overview import run_chips as verdicts
from app.views.overview.charts import interval_dots
from store.archive import SUFFIX

PATH = path_of("overview")
METRICS = ("accuracy", "ece", "nll")
TITLES = {
    "accuracy": "accuracy (higher is better)",
    "ece": "ECE (lower is better)",
    "nll": "NLL (lower is better)",
}
#: where a run comes from, and the colour of its chip
ORIGINS = {"archive": "blue", "here": "green"}


def in_distribution(run: dict[str, Any], inside: set[tuple[str, str]]) -> list[str]:
    """The run's in-distribution data sets, else all of them; ``inside`` holds experiment and name of every such set."""
    names = run_names.as_list(run["datasets"])
    return [name for name in names if (run["experiment"], name) in inside] or names


def against_baselines(page: Page) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """The differences of each run from its deterministic run, by run and data set and then by metric."""
    baselines = run_names.baselines(page.runs)
    own = page.runs.set_index("run_id")["experiment"].map(baselines)
    rows = page.data("comparisons", names=METRICS)
    rows = rows[(rows["score"] == "") & (rows["baseline_run_id"] == rows["run_id"].map(own))]
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in run_names.records(rows):
        found.setdefault((row["run_id"], row["dataset"]), {})[row["metric"]] = row
    return found


def runs_table(page: Page) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Per run × in-distribution set: the numbers (for files) and the same as text with intervals (for the screen).

    One pass over each table: with the published archives there are hundreds of runs.
    """
    metrics = page.data("metrics", names=(*METRICS, "auroc"))
    inverted = verdicts.inverted(metrics[metrics["metric"] == "auroc"])
    metrics = metrics[metrics["metric"].isin(METRICS)]
    keys = zip(metrics["run_id"], metrics["dataset"], metrics["metric"], strict=True)
    cells = zip(metrics["value"], metrics["ci_low"], metrics["ci_high"], metrics["n"], strict=True)
    stored = dict(zip(keys, cells, strict=True))
    compared = against_baselines(page)
    catalog = page.data("datasets")
    catalog = catalog[catalog["role"] == "in-distribution"]
    inside = set(zip(catalog["experiment"], catalog["dataset"], strict=True))
    numbers: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for run in run_names.records(run_names.shown_first(page.runs)):
        for dataset in in_distribution(run, inside) or [""]:
            key = {name: run[name] for name in ("model", "method", "estimator", "control")}
            archived = run["run_id"].endswith(SUFFIX)
            learned = run_names.posterior(run).get("learned")
            said = verdicts.chips(run, compared.get((run["run_id"], dataset), {}), run["run_id"] in inverted, learned)
            number: dict[str, Any] = {
                "run_id": run["run_id"],
                "archived": archived,
                **key,
                "status": run["status"],
                "data set": dataset,
                "verdicts": said,
            }
            text: dict[str, Any] = {"from": ["archive" if archived else "here"], **key, "verdicts": said}
            text["control"] = run_names.CONTROLS.get(run["control"], run["control"])
            for metric in METRICS:
                value, low, high, n = stored.get((run["run_id"], dataset, metric), (None,) * 4)
                number |= {metric: value, f"{metric}_ci_low": low, f"{metric}_ci_high": high}
                text[metric] = interval(value, low, high, percent=is_percent(metric))
                if n is not None:
                    number["n"] = text["n"] = int(n)
            number["samples"] = text["samples"] = run["samples"]
            text |= {
                "data set": dataset,
                "status": run["status"],
                "all data sets": run_names.as_list(run["datasets"]),
                "run": run["run_id"],
            }
            numbers.append(number)
            texts.append(text)
    return pd.DataFrame(numbers), pd.DataFrame(texts)


def draw_runs(page: Page) -> None:
    """The table of runs; a click on a row chooses the run for every page."""
    numbers, texts = runs_table(page)
    heading(
        "Runs",
        "One row per run and in-distribution data set: those computed here, newest experiment first, then archives; "
        "95 % intervals in brackets. Verdicts: paired difference from the deterministic run; same = the interval holds "
        "0; OoD inverted = a routing score is below chance on some OoD set. Click the box at the left of a row to "
        "choose the run for every page.",
        key="runs",
        card=page.card(page.runs["run_id"].tolist(), "Runs", "runs, metrics"),
        table=numbers,
        explains=METRICS,
    )

    def chosen() -> None:
        rows = st.session_state["runs.frame"]["selection"]["rows"]
        if rows:
            go("run", texts.iloc[rows[0]]["run"])

    st.dataframe(
        texts,
        hide_index=True,
        key="runs.frame",
        on_select=chosen,
        selection_mode="single-row",
        height=min(38 + 35 * len(texts), 420),
        alt="All runs with accuracy, ECE and NLL",
        column_config={
            "from": st.column_config.MultiselectColumn(
                "from",
                options=list(ORIGINS),
                color=list(ORIGINS.values()),
                width=92,
                pinned=True,
                help="here: computed on this machine or its workers; archive: added as a file, results only",
            ),
            "verdicts": st.column_config.MultiselectColumn(
                "verdicts", options=list(verdicts.CHIPS), color=list(verdicts.CHIPS.values()), width=470
            ),
            "all data sets": st.column_config.ListColumn(),
            "accuracy": st.column_config.TextColumn("accuracy ↑", help="higher is better"),
            "ece": st.column_config.TextColumn("ECE ↓", help="lower is better"),
            "nll": st.column_config.TextColumn("NLL, nats ↓", help="lower is better"),
        },
    )


def draw_doors(page: Page, run_id: str) -> None:
    """Where the chosen run can be looked at, with the link that does it."""
    baseline = run_names.deterministic_of(page.runs, run_id)
    st.markdown(f"#### What you can do with {plain(page.label(run_id))}", anchors=False)
    with st.container(key="doors"):
        for entry in PAGES[1:]:
            _door(entry, run_id, baseline)


def _door(entry: PageEntry, run_id: str, baseline: str | None) -> None:
    query: dict[str, Any] = {}
    if "run" in entry.needs:
        query["run"] = run_id
    if "baseline" in entry.needs and baseline not in (None, run_id):
        query["baseline"] = baseline
    if "runs" in entry.needs:
        query["runs"] = list(dict.fromkeys([baseline or run_id, run_id]))
    with st.container(border=True, gap="xsmall", height="stretch"):
        st.page_link(entry.path, label=f"**{entry.short}** →", query_params=query)
        st.caption(entry.question)


def draw_ladder(page: Page, run_id: str, dataset: str) -> None:
    """All runs of the experiment as rungs, raw and temperature-scaled, one chart per metric."""
    family = run_names.siblings(page.runs, run_id)
    names = {row["run_id"]: run_names.describe(row) for row in run_names.records(family)}
    order = list(names.values())
    values = page.data("metrics", run_ids=tuple(family["run_id"]), dataset=dataset)
    run = page.run(run_id)
    tiles, tables = [], []
    for metric in METRICS:
        twins = {metric: "raw"} if metric == "accuracy" else {metric: "raw", f"{metric}_ts": "scaled"}
        rows = values[values["metric"].isin(twins) & values["value"].notna()].copy()
        if rows.empty:
            continue
        rows["rung"] = rows["run_id"].map(names)
        rows["calibration"] = rows["metric"].map(twins)
        rows = rows[["rung", "calibration", "metric", "value", "ci_low", "ci_high", "n", "run_id"]]
        rows = rows.sort_values("calibration", kind="stable").reset_index(drop=True)
        tables.append(rows)
        chart = interval_dots(
            rows,
            row="rung",
            title="nats" if metric == "nll" else "percent",
            order=order,
            percent=is_percent(metric),
            group="calibration",
        )
        tiles.append(Tile(TITLES[metric], chart, width=400))
    if not tiles:
        st.info(f"No accuracy, ECE or NLL is stored for {plain(dataset)} in this experiment yet.")
        return
    table = pd.concat(tables, ignore_index=True)
    figure(
        "Ladder of baselines and controls",
        tiles,
        table,
        key="ladder",
        note=f"{run['model']} on {dataset}, n = {int(table['n'].max()):,}; lines are 95 % intervals; "
        "scaled = temperature-scaled. A Bayesian run earns "
        "its keep only where it beats the deterministic run, its temperature-scaled numbers, and every control.",
        alt_text="Accuracy, ECE and NLL with intervals for every run of the experiment, raw and temperature-scaled",
        card=page.card(family["run_id"].tolist(), "Ladder", "metrics"),
        explains=(*METRICS, "temperature_scaling", "untrained", "own-mean", "prior-covariance", "non-routing-noise"),
    )


def render() -> None:
    """Draw the page."""
    page = open_page(
        PATH,
        "Overview",
        "How sure is a Mixture-of-Experts model of its routing, where does it matter, and does a Bayesian router help?",
        live=True,
    )
    run_id = page.link.pick("run", page.runs["run_id"].tolist(), run_names.default_run(page.runs))
    assert run_id is not None
    run = page.run(run_id)
    catalog = page.data("datasets", experiment=run["experiment"])
    roles = catalog.set_index("dataset")["role"].to_dict()
    datasets = sorted(catalog["dataset"], key=lambda name: (list(ROLE_LABELS).index(roles[name]), name))
    dataset = page.link.pick("dataset", datasets, datasets[0] if datasets else None)
    page.link.commit()
    page.banners([run_id])
    draw_runs(page)
    draw_doors(page, run_id)
    if dataset is not None:
        with st.container(width=420):
            page.link.select(
                "dataset", "Data set of the ladder", datasets, show=lambda name: f"{name} ({ROLE_LABELS[roles[name]]})"
            )
        draw_ladder(page, run_id, dataset)


render()
