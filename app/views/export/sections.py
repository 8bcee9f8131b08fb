"""What a report of two runs holds: the figures of the pages, each as title, note, chart and table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from app.comparison import paired_answers as pairs
from app.comparison.answers import paired
from app.downloads.files import Section
from app.figures import auroc as ood
from app.figures import leverage as layers
from app.figures import paired as compare
from app.figures import reliability as calibration
from app.figures import stability
from app.figures.auroc import auroc_rows
from app.shared import runs as run_names
from app.shared.figure import Tile, one_chart
from app.shared.format import is_percent
from app.shared.page import Page
from vmoer.metrics import definition

NUMBERS = ("accuracy", "ece", "ece_adaptive", "mce", "nll", "brier", "aurc", "overconfidence")


def sections(page: Page, first: str, second: str) -> list[Section]:
    """The report of ``second`` against ``first``; what is not stored is left out."""
    rows = paired(page, first, second)
    found = [_numbers(page, [first, second])]
    if not rows.empty:
        found += [*_answers(page, first, second, rows), *_calibration(page, [first, second], rows)]
    found += [*_layers(page, first, second), *_ood(page, second)]
    return [section for section in found if not section.table.empty]


def _numbers(page: Page, run_ids: list[str]) -> Section:
    names = [f"{name}{suffix}" for name in NUMBERS for suffix in ("", "_ts")]
    rows = page.data("metrics", run_ids=tuple(run_ids), names=tuple(names))
    rows = rows[rows["score"].isin(["", "answer_entropy"])]
    columns = ["run_id", "dataset", "metric", "value", "ci_low", "ci_high", "n", "direction"]
    note = "95 % intervals; direction says which way is better; names ending in _ts are temperature-scaled."
    return Section("Numbers", note, None, rows[columns].reset_index(drop=True))


def _answers(page: Page, first: str, second: str, rows: pd.DataFrame) -> Iterator[Section]:
    stored = page.data("comparisons", second, names=pairs.DIFFERENCES)
    stored = stored[(stored["baseline_run_id"] == first) & (stored["score"] == "")].reset_index(drop=True)
    origin = "stored with the run"
    if stored.empty:
        stored = pairs.computed_differences(rows, page.settings.bootstrap)
        origin = f"from {page.settings.bootstrap:,} resamples"
    stored = pairs.with_verdicts(stored, list(dict.fromkeys(rows["dataset"])))
    tiles = []
    for metric in pairs.DIFFERENCES:
        part = stored[stored["metric"] == metric]
        if not part.empty:
            chart = compare.differences(part, title="second − first", percent=is_percent(metric))
            tiles.append(Tile(f"{metric}, {definition(metric).direction} is better", chart, width=240))
    note = (
        f"{page.label(second)} minus {page.label(first)} on {len(rows):,} shared questions, paired 95 % intervals, "
        f"{origin}. ▲ better, ▼ worse, ● no clear difference."
    )
    yield Section("Paired differences", note, one_chart(tiles) if tiles else None, stored)
    flips = pairs.flip_counts(rows)
    gained, lost = (int((rows["outcome"] == compare.OUTCOMES[place]).sum()) for place in (1, 2))
    note = f"{gained} answers became right, {lost} became wrong, of {len(rows):,} shared questions."
    yield Section("Answers that changed", note, compare.flips(flips), flips)
    limit = page.settings.max_points
    drawn = rows if len(rows) <= limit else rows.sample(limit, random_state=0)
    drawn = drawn[["dataset", "example_id", "confidence_a", "confidence_b", "outcome"]].reset_index(drop=True)
    note = f"{len(drawn):,} of {len(rows):,} shared questions; below the dashed line the second run is less sure."
    chart = compare.confidence_scatter(drawn, first="first run", second="second run")
    yield Section("Confidence, question by question", note, chart, drawn)


def _calibration(page: Page, run_ids: list[str], rows: pd.DataFrame) -> Iterator[Section]:
    for dataset in dict.fromkeys(rows.loc[rows["role"] == "in-distribution", "dataset"]):
        bins = pd.concat(
            [
                page.data("reliability", tuple(run_ids), dataset, calibration=name)
                for name in ("raw", "temperature-scaled")
            ],
            ignore_index=True,
        )
        tiles = []
        for run_id in run_ids:
            for name in ("raw", "temperature-scaled"):
                one = bins[(bins["run_id"] == run_id) & (bins["calibration"] == name)].sort_values("bin")
                if not one.empty and one["n"].sum():
                    chart = calibration.reliability_diagram(one, top=float(bins["n"].max()))
                    tiles.append(Tile(run_names.describe(page.run(run_id)), chart, [name, f"n = {one['n'].sum():,}"]))
        if tiles:
            note = "Accuracy over confidence, 15 equal-width bins; below the dashed line (orange) over-confident."
            yield Section(f"Reliability on {dataset}", note, one_chart(tiles), bins)
        curves = [
            calibration.risk_coverage_points(page.data("predictions", run_id, dataset), page.label(run_id))
            for run_id in run_ids
        ]
        table = pd.concat(curves, ignore_index=True)
        chart = calibration.risk_coverage(table, order=[page.label(run_id) for run_id in run_ids])
        note = (
            f"Error rate among the surest answers (lowest answer entropy); {calibration.CURVE_POINTS} points at most."
        )
        yield Section(f"Risk over coverage on {dataset}", note, chart, table)


def _layers(page: Page, first: str, second: str) -> Iterator[Section]:
    model = page.run(second)["model"]
    order = page.layers(model)
    chosen = [int(one) for one in run_names.as_list(page.run(second)["layers"])]
    source, rows = _first_with(page, "layer_susceptibility", [second, first])
    if not rows.empty:
        gammas = sorted(rows["gamma"].unique())
        gamma = gammas[len(gammas) // 2]
        at = rows[rows["gamma"] == gamma].reset_index(drop=True)
        note = f"Jaccard of clean and noisy expert sets at γ = {gamma:g} in {page.label(source)}. Pink: Bayesian."
        yield Section("Stability of routing", note, stability.stability_violins(at, order, chosen=chosen), at)
        leverage = _first_with(page, "layer_leverage", [second, first])[1]
        single = leverage[(leverage["scope"] == "layer") & (leverage["intervention"] == "random-routing")]
        quadrants = stability.quadrant_table(at, single, quantity="accuracy", chosen=chosen)
        if not quadrants.empty:
            note = "Right of the line: susceptible; above 0 with its interval: routing matters."
            chart = stability.quadrant(quadrants, title="accuracy lost when routing is random", percent=True)
            yield Section("Instability and leverage", note, chart, quadrants)
            note = "Change of accuracy when only this layer's routing is drawn at random, paired 95 % intervals."
            single = single.reset_index(drop=True)
            yield Section("Leverage", note, layers.leverage_bars(single, order, chosen=chosen), single)
    if page.run(first)["model"] == model:
        overlap = page.data("layer_overlap", first, second, limit=page.settings.max_overlap)
        if not overlap.empty:
            count = int(overlap["n_examples"].max())
            note = f"Mean Jaccard of both runs' expert sets on the same tokens of {count:,} shared questions."
            yield Section("The same experts?", note, compare.overlap_by_layer(overlap, order, chosen=chosen), overlap)


def _ood(page: Page, run_id: str) -> Iterator[Section]:
    rows = auroc_rows(
        page.data("metrics", run_ids=(run_id,), names=("auroc",)),
        page.data("datasets", experiment=page.run(run_id)["experiment"]).set_index("dataset")["role"],
    )
    if not rows.empty:
        order = rows.groupby("label", sort=False)["value"].mean().sort_values(ascending=False).index.tolist()
        note = f"{page.label(run_id)}; positive = OoD, higher = more OoD, never flipped; 95 % intervals."
        yield Section("AUROC of every score", note, ood.auroc_forest(rows, order=order), rows)


def _first_with(page: Page, query: str, run_ids: list[str]) -> tuple[str, Any]:
    rows = page.data(query, run_ids=tuple(run_ids))
    for run_id in run_ids:
        found = rows[rows["run_id"] == run_id]
        if not found.empty:
            return run_id, found.reset_index(drop=True)
    return run_ids[0], rows
