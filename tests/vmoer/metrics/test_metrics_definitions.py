"""Definitions: complete, consistent with the code that computes, and the only source of docs/metrics.md."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vmoer import metrics
from vmoer.errors import UnknownNameError
from vmoer.measure.learned import KL_LIMIT
from vmoer.metrics import AnswerMetric, Definition, answer_metrics, definitions
from vmoer.metrics._definition import DIRECTIONS
from vmoer.metrics._measures import Measure
from vmoer.metrics.calibration import Answered
from vmoer.metrics.definitions import SCALED_TWINS, markdown
from vmoer.metrics.stability import KEPT

ROOT = Path(__file__).parents[3]

SHOWN = [
    "accuracy",
    "confidence",
    "ece",
    "ece_adaptive",
    "mce",
    "nll",
    "brier",
    "overconfidence",
    "temperature",
    "temperature_scaling",
    "auroc",
    "auprc",
    "fpr95",
    "error_auroc",
    "aurc",
    "risk_coverage",
    "reliability_diagram",
    "jaccard",
    "chance",
    "susceptible",
    "instability",
    "accuracy_change",
    "nll_change",
    "routing_entropy",
    "logit_variance",
    "logit_variance_mc",
    "top_k_margin",
    "overlap",
    "gate_entropy",
    "answer_entropy",
    "one_minus_max_prob",
    "mutual_information",
    "variation_ratio",
    "load_share",
    "gate_share",
    "lift",
    "kl",
    "posterior_std",
    "in-router",
    "predictive",
    "untrained",
    "own-mean",
    "prior-covariance",
    "non-routing-noise",
    "learned",
    "choice_spread",
    "next_token_entropy",
    "attribution",
    "accuracy_ts",
    "ece_ts",
    "ece_adaptive_ts",
    "mce_ts",
    "nll_ts",
    "brier_ts",
    "overconfidence_ts",
]


@pytest.mark.parametrize("name", SHOWN)
def test_everything_shown_is_defined(name: str) -> None:
    one = metrics.definition(name)
    assert one.name == name
    assert one.direction in DIRECTIONS
    for field in ("title", "formula", "unit", "help", "pitfalls", "group"):
        text = getattr(one, field)
        assert text, field
        assert text == text.strip(), field
        assert "  " not in text.replace("\\ ", ""), field
    assert one.formula.count("{") == one.formula.count("}")
    assert "$" not in one.formula


def test_nothing_is_defined_that_is_not_shown() -> None:
    assert {*metrics.DEFINITIONS} == {*SHOWN}


def test_a_twin_is_its_base_on_scaled_probabilities() -> None:
    for name in SCALED_TWINS:
        base, twin = metrics.definition(name), metrics.definition(f"{name}_ts")
        assert (twin.formula, twin.direction, twin.unit) == (base.formula, base.direction, base.unit)
        assert "temperature-scaled" in twin.help


def test_figures_in_the_texts_are_those_of_the_code() -> None:
    assert f"{KEPT:.3f}" == "0.547"
    assert "0.547" in metrics.definition("susceptible").formula
    assert f"{metrics.chance_jaccard(8, 40):.3f}".lstrip("0") in metrics.definition("chance").help
    assert metrics.chance_jaccard(24, 36) == pytest.approx(0.5, abs=0.01)
    assert f"\\ge {KL_LIMIT}" in metrics.definition("learned").formula
    assert f"below {KL_LIMIT} nats" in metrics.definition("learned").help
    assert "at least 10" in metrics.definition("mce").help


def test_an_unknown_name_suggests_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="no metric or quantity is called 'auroc2'; did you mean 'auroc'"):
        metrics.definition("auroc2")
    with pytest.raises(UnknownNameError, match="did you mean 'ece'"):
        metrics.definition("ECE")
    with pytest.raises(UnknownNameError, match="there are accuracy"):
        metrics.definition("zzzzzzzz")


def test_definitions_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.definition("ece").help = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        metrics.DEFINITIONS["ece"] = metrics.definition("nll")  # type: ignore[index]


def test_the_documentation_is_current() -> None:
    written = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert written == markdown(), "run: python -m vmoer.metrics > docs/metrics.md"
    for name in SHOWN:
        assert f"`{name}`" in written, name


def test_the_documented_command_prints_it() -> None:
    done = subprocess.run([sys.executable, "-m", "vmoer.metrics"], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode("utf-8") == markdown()
    assert done.stderr == b""


def test_metrics_import_without_torch_and_heavy_company() -> None:
    forbidden = ["torch", "transformers", "duckdb", "pyarrow", "streamlit", "pandas", "store", "pipelines", "app"]
    program = f"import sys, vmoer.metrics; print([name for name in {forbidden} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_new_answer_metric_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """One function and one line of the table: computed, compared, given a twin, defined and documented."""

    def median_confidence(each: Answered) -> Measure:
        return Measure(lambda confidence: np.median(confidence, axis=-1), (each.confidence,), low=0, high=1)

    own = Definition(
        "median_confidence", "Median confidence", r"\tilde c", "none", "fraction", "H.", "P.", "", "Answers"
    )
    line = AnswerMetric("median_confidence", "median", median_confidence, own)
    monkeypatch.setattr(answer_metrics, "ANSWER_METRICS", (*answer_metrics.ANSWER_METRICS, line))
    monkeypatch.setattr(definitions, "ANSWER_METRICS", answer_metrics.ANSWER_METRICS)
    monkeypatch.setattr(definitions, "SCALED_TWINS", (*definitions.SCALED_TWINS, "median_confidence"))
    monkeypatch.setattr(definitions, "DEFINITIONS", definitions.read())
    probs, answers = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], [0, 1, 1]
    rows = {row.metric: row for row in metrics.calibration_metrics(probs, answers, temperature=1.0)}
    assert rows["median_confidence"].value == rows["median_confidence_ts"].value == pytest.approx(0.7)
    differences = {row.metric: row.difference for row in metrics.paired_comparison(probs, probs, answers)}
    assert differences["median_confidence"] == 0
    assert "### Median" in markdown()
