"""Charts are pure functions from a frame to a valid Vega-Lite specification that plots what the frame holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest

from app.comparison import paired_answers as pairs
from app.drilldown.charts import expert_bars
from app.figures import paired as compare
from app.figures import reliability as calibration
from app.figures import stability
from app.figures.auroc import auroc_forest
from app.figures.leverage import leverage_bars
from app.figures.parts import ChartDataError
from app.figures.render import specification
from app.figures.token_heatmap import token_heatmap
from app.views.compare.charts import load_change
from app.views.experts import charts as experts
from app.views.layers import charts as layers
from app.views.layers.charts import stability_by_run
from app.views.ood import charts as ood
from app.views.ood.length_control import length_control
from app.views.overview.charts import interval_dots
from app.views.training import charts as training
from tests.app import frames

FLIPS = pairs.flip_counts(
    pd.DataFrame({"dataset": ["a"] * 3, "outcome": ["both right", "wrong → right", "both wrong"]})
)
DIFFERENCES = pd.DataFrame(
    {
        "dataset": ["a", "b"],
        "difference": [0.1, -0.1],
        "ci_low": [0.05, -0.2],
        "ci_high": [0.15, 0.1],
        "verdict": ["second run better", "no clear difference"],
        "n": [100, 100],
    }
)
CONFIDENCES = pd.DataFrame(
    {
        "dataset": ["a", "a"],
        "example_id": ["1", "2"],
        "confidence_a": [0.5, 0.9],
        "confidence_b": [0.4, 0.8],
        "outcome": ["both right", "right → wrong"],
    }
)
LADDER = pd.DataFrame(
    {
        "rung": ["deterministic", "deterministic", "fcvr"],
        "calibration": ["raw", "scaled", "raw"],
        "value": [0.1, 0.05, 0.08],
        "ci_low": [0.05, 0.02, 0.04],
        "ci_high": [0.15, 0.08, 0.12],
        "n": [100, 100, 100],
    }
)
AUROC = pd.DataFrame(
    {
        "label": ["gate_entropy", "logit_variance"],
        "dataset": ["near", "far"],
        "role": ["near-ood", "far-ood"],
        "value": [0.4, 0.8],
        "ci_low": [0.35, 0.7],
        "ci_high": [0.45, 0.9],
        "n": [100, 100],
        "verdict": ["INVERTED", "above chance"],
    }
)


def at(gamma: float) -> pd.DataFrame:
    frame = frames.stability()
    return frame[frame["gamma"] == gamma]


def by_run() -> pd.DataFrame:
    """One tested run with intervals, one series without."""
    tested = at(0.1).assign(series="deterministic")
    return pd.concat([tested, tested.assign(series="fcvr", ci_low=None, ci_high=None)], ignore_index=True)


def quadrants(quantity: str) -> pd.DataFrame:
    return stability.quadrant_table(at(0.1), frames.leverage(), quantity=quantity, chosen=[5])


CHARTS: dict[str, Any] = {
    "distance from the prior": lambda: training.prior_distance(
        pd.DataFrame({"layer": frames.LAYERS, "kl": 0.1, "width": 1.1, "between": 0.02}), 0.05
    ),
    "stability heatmap": lambda: layers.stability_heatmap(frames.stability(), frames.LAYERS, layer=2, gamma=0.1),
    "stability above chance": lambda: layers.stability_heatmap(
        frames.stability(), frames.LAYERS, measure="instability"
    ),
    "violins": lambda: stability.stability_violins(at(0.1), frames.LAYERS, chosen=[5], layer=0),
    "stability by run": lambda: stability_by_run(by_run(), frames.LAYERS, threshold=0.7, chance=0.2, chosen=[5]),
    "quadrant": lambda: stability.quadrant(quadrants("nll"), title="NLL", percent=False, layer=1),
    "leverage in accuracy": lambda: leverage_bars(frames.leverage(), frames.LAYERS, chosen=[1]),
    "leverage in NLL": lambda: leverage_bars(frames.leverage(), frames.LAYERS, quantity="nll"),
    "load": lambda: experts.load_heatmap(frames.load(), frames.LAYERS, layer=1),
    "experts": lambda: expert_bars(frames.load().query("layer == 1")),
    "choice": lambda: experts.choice_dots(frames.choice(), n_experts=4, expert=1),
    "company": lambda: experts.company(frames.company(), n_experts=4, expert=2),
    "reliability": lambda: calibration.reliability_diagram(frames.bins(), top=90),
    "ladder": lambda: interval_dots(
        LADDER, row="rung", title="ECE", order=["deterministic", "fcvr"], percent=True, group="calibration"
    ),
    "distributions": lambda: ood.distributions(ood.histogram(frames.scores())),
    "roc": lambda: ood.roc(ood.roc_points(frames.scores())),
    "auroc": lambda: auroc_forest(AUROC, order=["logit_variance", "gate_entropy"]),
    "losses": lambda: training.losses(frames.training(), best=10),
    "per layer": lambda: training.per_layer(
        frames.training().query("quantity == 'kl'"), frames.LAYERS, title="KL (nats)"
    ),
    "risk over coverage": lambda: calibration.risk_coverage(
        calibration.risk_coverage_points(frames.answers(), "a"), order=["a"]
    ),
    "precision over recall": lambda: ood.precision_recall(ood.pr_points(frames.scores())),
    "AUROC matrix": lambda: ood.auroc_matrix(AUROC, order=["logit_variance", "gate_entropy"]),
    "length control": lambda: ood.matched_dots(length_control(frames.lengths(), 100)),
    "load change": lambda: load_change(frames.moved(), frames.LAYERS, layer=2),
    "paired by run": lambda: compare.differences(
        DIFFERENCES.rename(columns={"dataset": "run"}), title="run − deterministic", percent=False, row="run"
    ),
    "overlap": lambda: compare.overlap_by_layer(frames.overlap(), frames.LAYERS, chosen=[5], layer=5),
    "flips": lambda: compare.flips(FLIPS),
    "differences": lambda: compare.differences(DIFFERENCES, title="second − first", percent=True),
    "confidence": lambda: compare.confidence_scatter(CONFIDENCES, first="a", second="b"),
    "tokens": lambda: token_heatmap(
        frames.token_rows(), frames.LAYERS, value="changed", title="changed", domain=(0, 3), token=1
    ),
}


def fields(spec: Any) -> Iterator[str]:
    """Every field a specification encodes."""
    if isinstance(spec, dict):
        if isinstance(spec.get("field"), str):
            yield spec["field"]
        for name, value in spec.items():
            if name not in ("datasets", "params"):
                yield from fields(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from fields(value)


@pytest.mark.parametrize("name", CHARTS)
def test_chart_is_valid_and_every_encoded_field_is_in_its_data(name: str) -> None:
    spec, data = specification(CHARTS[name](), validate=True)
    columns = {column for frame, _ in data.values() for column in frame.columns}
    encoded = set(fields(spec))
    assert encoded
    assert encoded <= columns


@pytest.mark.parametrize("name", CHARTS)
def test_chart_plots_no_nan(name: str) -> None:
    spec, data = specification(CHARTS[name]())
    encoded = set(fields(spec))
    for frame, _ in data.values():
        drawn = frame[[column for column in frame.columns if column in encoded]]
        if "n" in frame and (frame["n"] == 0).any():
            drawn = drawn[["lower", "upper"]]  # an empty bin has edges and nothing else
        for column in drawn.select_dtypes("number"):
            assert np.isfinite(drawn[column].to_numpy(dtype=float)).all(), column


@pytest.mark.parametrize("name", ["stability heatmap", "leverage in accuracy", "load", "overlap"])
def test_charts_over_layers_share_one_axis_and_can_be_clicked(name: str) -> None:
    spec, _ = specification(CHARTS[name]())
    domains = [
        layer["encoding"]["x"]["scale"]["domain"]
        for layer in spec["layer"]
        if layer.get("encoding", {}).get("x", {}).get("field") == "layer"
    ]
    assert domains
    assert all(domain == frames.LAYERS for domain in domains)
    clicked = {"load": ("cell", ["layer", "expert_index"])}.get(name, ("layer", ["layer"]))
    assert [(param["name"], param["select"]["fields"]) for param in spec["params"]] == [clicked]


def test_susceptible_cells_and_only_they_carry_a_dot() -> None:
    _, data = specification(CHARTS["stability heatmap"]())
    dots = next(frame for frame, _ in data.values() if set(frame.get("susceptible", [])) == {True})
    assert list(dots["layer"]) == [5]


def test_empty_bins_are_drawn_as_empty_and_small_bins_as_hollow() -> None:
    chart = CHARTS["reliability"]()
    spec, data = specification(chart)
    diagram = spec["vconcat"][0]["layer"]
    crosses = next(layer for layer in diagram if layer["mark"].get("text") == "×")
    assert len(data[crosses["data"]["name"]][0]) == 2
    hollow = next(layer for layer in diagram if layer["mark"].get("filled") is False)
    assert list(data[hollow["data"]["name"]][0]["n"]) == [5]


def test_over_confidence_has_its_own_word_and_colour() -> None:
    _, data = specification(CHARTS["reliability"]())
    directions = {
        int(row.n): row.direction for frame, _ in data.values() if "direction" in frame for row in frame.itertuples()
    }
    assert directions[90] == "over-confident"
    assert directions[60] == "under-confident"


def test_leverage_marks_only_layers_whose_interval_excludes_zero() -> None:
    _, data = specification(CHARTS["leverage in accuracy"]())
    frame = next(frame for frame, _ in data.values() if "verdict" in frame)
    assert list(frame.loc[frame["verdict"] == "routing matters", "layer"]) == [1]


def test_histogram_counts_every_question_once_and_shares_edges() -> None:
    found = ood.histogram(frames.scores())
    assert found.groupby("dataset")["count"].sum().to_dict() == {"id": 10, "near": 10, "far": 10}
    assert found.groupby("dataset")["lower"].apply(tuple).nunique() == 1
    assert found["upper"].max() == pytest.approx(frames.scores()["value"].max())


def test_histogram_of_equal_scores_has_bins() -> None:
    scores = frames.scores().assign(value=1.0)
    assert math.isclose(ood.histogram(scores)["share"].sum(), 3.0)


def test_roc_starts_at_zero_ends_at_one_and_perfect_separation_touches_the_corner() -> None:
    curve = ood.roc_points(frames.scores())
    far = curve[curve["dataset"] == "far"]
    assert tuple(far.iloc[0][["fpr", "tpr"]]) == (0.0, 0.0)
    assert tuple(far.iloc[-1][["fpr", "tpr"]]) == (1.0, 1.0)
    assert ((far["fpr"] == 0) & (far["tpr"] == 1)).any()


def test_roc_without_an_ood_set_is_empty() -> None:
    scores = frames.scores()
    assert ood.roc_points(scores[scores["role"] == "in-distribution"]).empty


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ChartDataError, match="jaccard"):
        layers.stability_heatmap(frames.stability().drop(columns="jaccard"), frames.LAYERS)


def test_rendering_a_chart_leaves_no_trace_for_the_next() -> None:
    first, one = specification(alt.Chart(pd.DataFrame({"a": [1]})).mark_point().encode(x="a:Q"))
    second, two = specification(alt.Chart(pd.DataFrame({"a": [2]})).mark_point().encode(x="a:Q"))
    assert set(one).isdisjoint(two)
    assert first["data"]["name"] in one
    assert second["data"]["name"] in two


def test_equal_data_give_an_equal_specification() -> None:
    assert specification(CHARTS["load"]())[0] == specification(CHARTS["load"]())[0]


def test_instability_is_zero_for_equal_sets_and_one_at_chance() -> None:
    found = stability.instability(pd.Series([1.0, 0.2, 0.6]), pd.Series([0.2, 0.2, 0.2]))
    assert found.tolist() == pytest.approx([0.0, 1.0, 0.5])


def test_violins_lie_below_the_columns_of_the_heatmap_and_peak_at_the_mass() -> None:
    frame = at(0.1).assign(quantiles=[[0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.6]] * len(frames.LAYERS))
    shapes = stability.violin_shapes(frame, frames.LAYERS)
    assert shapes["jaccard"].between(0, 1).all()
    for place, layer in enumerate(frames.LAYERS):
        mine = shapes[shapes["layer"] == layer]
        assert ((mine["left"] + mine["right"]) / 2).tolist() == pytest.approx([place] * len(mine))
        widest = mine.loc[(mine["right"] - mine["left"]).idxmax(), "jaccard"]
        assert widest == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("quantity", ["accuracy", "nll"])
def test_quadrants_need_both_a_susceptible_layer_and_a_cost_above_zero(quantity: str) -> None:
    rows = quadrants(quantity).set_index("layer")
    assert rows.loc[1, "quadrant"] == "steady, and it matters"
    assert rows.loc[5, "quadrant"] == "unstable, harmless"
    assert rows.loc[0, "quadrant"] == "steady, harmless"
    assert (rows["cost_low"] <= rows["cost"]).all()
    assert (rows["cost"] <= rows["cost_high"]).all()
    assert rows.loc[1, "cost"] == pytest.approx(0.1 if quantity == "accuracy" else 0.3)


def test_company_is_measured_against_independence_on_a_scale_around_it() -> None:
    spec, data = specification(CHARTS["company"]())
    frame = next(frame for frame, _ in data.values() if "log_lift" in frame)
    assert frame.loc[frame["lift"] == 2, "log_lift"].tolist() == [1.0, 1.0]
    scale = spec["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domainMid"] == 0
    assert scale["domain"][0] == -scale["domain"][1]


def test_a_chart_of_one_layer_shows_every_expert_also_unused_ones() -> None:
    for name in ("choice", "company"):
        spec, _ = specification(CHARTS[name]())
        domains = [
            layer["encoding"]["x"]["scale"]["domain"]
            for layer in spec["layer"]
            if "scale" in layer.get("encoding", {}).get("x", {})
        ]
        assert [0, 1, 2, 3] in domains


def test_the_best_step_is_the_one_that_was_kept() -> None:
    log = frames.training()
    assert training.best_step(log, "mfvr") == (10, 1.2)
    assert training.best_step(log, "swagr")[0] == log["step"].max(), "it keeps the last weights"
    assert training.best_step(log.query("quantity == 'loss'"), "mfvr") is None
    said = pd.DataFrame([{"step": 5, "layer": -1, "quantity": "kept_step", "value": 5.0}])
    assert training.best_step(pd.concat([log, said]), "mfvr")[0] == 5


def test_risk_starts_with_the_surest_answers_and_ends_at_the_error_rate() -> None:
    found = calibration.risk_coverage_points(frames.answers(), "a")
    assert found["coverage"].is_monotonic_increasing
    assert found["risk"].iloc[0] == 0
    assert found["coverage"].iloc[-1] == 1
    assert found["risk"].iloc[-1] == pytest.approx(1 - frames.answers()["correct"].mean())


def test_a_long_curve_is_thinned_but_keeps_its_ends() -> None:
    answers = pd.concat([frames.answers()] * 200, ignore_index=True)
    found = calibration.risk_coverage_points(answers, "a")
    assert len(found) == calibration.CURVE_POINTS
    assert found["answered"].iloc[[0, -1]].tolist() == [1, len(answers)]


def test_precision_ends_at_the_share_of_the_ood_set_and_is_one_for_perfect_separation() -> None:
    found = ood.pr_points(frames.scores())
    for _, curve in found.groupby("dataset"):
        assert curve["precision"].iloc[-1] == pytest.approx(0.5) == curve["base"].iloc[0]
    far = found[found["dataset"] == "far"]
    assert (far["precision"].iloc[:10] == 1).all()


def test_a_value_below_one_half_carries_its_badge_and_is_not_flipped() -> None:
    _, data = specification(CHARTS["AUROC matrix"]())
    frame = next(frame for frame, _ in data.values() if "badge" in frame)
    assert dict(zip(frame["value"], frame["badge"], strict=True)) == {0.4: "▼ INVERTED", 0.8: ""}
