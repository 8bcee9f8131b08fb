"""Rows for the store: complete, named as agreed, recomputable, and NULL where nothing can be said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from store.schema import TABLES
from vmoer import metrics
from vmoer.metrics.definitions import SCALED_TWINS


def predictions(n: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Over-confident answers with three to five options."""
    generator = np.random.default_rng(seed)
    probs, answers = [], []
    for _ in range(n):
        scores = generator.normal(size=generator.integers(3, 6)) * 1.5
        truth = np.exp(scores) / np.exp(scores).sum()
        answers.append(generator.choice(scores.size, p=truth))
        probs.append(np.exp(2 * scores) / np.exp(2 * scores).sum())
    return probs, np.array(answers, dtype=np.int32)


def by_name(rows: list) -> dict:
    assert len({row.metric for row in rows}) == len(rows)
    return {row.metric: row for row in rows}


def test_every_row_has_the_columns_of_the_store_and_a_definition() -> None:
    probs, answers = predictions(60)
    rows = [
        *metrics.calibration_metrics(probs, answers, ids=range(60), n_resamples=50),
        *metrics.ood_metrics(np.arange(9.0), np.arange(9.0) + 3, score="answer_entropy", n_resamples=50),
        *metrics.selective_metrics(np.arange(9.0), np.arange(9) % 2, score="answer_entropy", n_resamples=50),
    ]
    table = TABLES["metrics"]
    for value in rows:
        row = value.row("run", "worldfacts")
        assert {*row} == {*table.column_names}
        assert row["direction"] == metrics.definition(row["metric"]).direction
        assert all(row[name] is not None for name in table.column_names if not table.column(name).nullable)
        json.dumps(row, allow_nan=False)
    keys = [tuple(value.row("run", "worldfacts")[name] for name in table.key) for value in rows]
    assert len(set(keys)) == len(keys)


def test_comparisons_have_the_columns_of_the_store() -> None:
    probs, answers = predictions(80)
    softer = [np.sqrt(one) / np.sqrt(one).sum() for one in probs]
    rows = metrics.paired_comparison(softer, probs, answers, n_resamples=50)
    rows += metrics.paired_ood_comparison(
        np.arange(9.0), np.arange(9.0) + 3, np.arange(9.0), np.arange(9.0) + 1, score="gate_entropy", n_resamples=50
    )
    for value in rows:
        row = value.row("run", "base", "worldfacts")
        assert {*row} == {*TABLES["comparisons"].column_names}
        json.dumps(row, allow_nan=False)
    twins = metrics.paired_comparison(softer, probs, answers, suffix="_ts", n_resamples=50)
    assert {row.metric for row in twins} == {f"{name}_ts" for name in SCALED_TWINS}


def test_values_are_those_of_the_plain_functions() -> None:
    probs, answers = predictions(200)
    rows = by_name(metrics.calibration_metrics(probs, answers, n_resamples=50))
    assert [*rows] == ["accuracy", "ece", "ece_adaptive", "mce", "nll", "brier", "overconfidence"]
    for name, function in {
        "accuracy": metrics.accuracy,
        "ece": metrics.ece,
        "ece_adaptive": metrics.adaptive_ece,
        "mce": metrics.mce,
        "nll": metrics.nll,
        "brier": metrics.brier,
        "overconfidence": metrics.overconfidence,
    }.items():
        assert rows[name].value == pytest.approx(function(probs, answers), rel=1e-12), name
        assert rows[name].ci_low < rows[name].value < rows[name].ci_high, name
        assert rows[name].n == 200


def test_a_given_temperature_makes_the_twins() -> None:
    probs, answers = predictions(300)
    rows = by_name(metrics.calibration_metrics(probs, answers, temperature=2.0, n_resamples=50))
    assert {*rows} == {*SCALED_TWINS, *(f"{name}_ts" for name in SCALED_TWINS), "temperature"}
    softened = [np.sqrt(one) / np.sqrt(one).sum() for one in probs]
    assert rows["ece_ts"].value == pytest.approx(metrics.ece(softened, answers), rel=1e-9)
    assert rows["accuracy_ts"].value == rows["accuracy"].value
    assert rows["nll_ts"].value < rows["nll"].value
    assert rows["temperature"].value == 2.0


def test_scores_and_log_probabilities_give_the_same_twins() -> None:
    probs, answers = predictions(100)
    scores = [np.log(one) + 7 for one in probs]
    ours = metrics.calibration_metrics(probs, answers, option_scores=scores, ids=range(100), n_resamples=20)
    derived = metrics.calibration_metrics(probs, answers, ids=range(100), n_resamples=20)
    for one, other in zip(ours, derived, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-6), one.metric


def test_cross_fitted_twins_say_so() -> None:
    probs, answers = predictions(300)
    row = by_name(metrics.calibration_metrics(probs, answers, ids=range(300), n_resamples=20))["temperature"]
    assert row.value == pytest.approx(2.0, rel=0.3)
    assert row.note is not None
    assert row.note.startswith("cross-fitted: ")


def test_tiny_sets_give_rows_not_exceptions() -> None:
    for n in (0, 1, 2):
        probs, answers = predictions(n)
        rows = by_name(metrics.calibration_metrics(probs, answers, ids=range(n), n_resamples=20))
        assert rows["ece"].n == n
        assert (rows["ece"].value is None) == (n == 0)
        assert rows["mce"].value is None
        assert rows["mce"].note == ("undefined: no bin has 10 examples" if n else "undefined: no examples")
        for row in rows.values():
            json.dumps(row.row("run", "set"), allow_nan=False)


def test_all_right_and_all_wrong_answers_keep_an_honest_accuracy_interval() -> None:
    for answer, value in ((0, 1.0), (1, 0.0)):
        rows = by_name(metrics.calibration_metrics([[0.9, 0.1]] * 20, [answer] * 20, n_resamples=20))
        assert rows["accuracy"].value == value
        assert rows["accuracy"].ci_high - rows["accuracy"].ci_low == pytest.approx(0.161, abs=2e-3)
        assert rows["nll"].ci_low is None
        assert "same value" in rows["nll"].note


def test_an_empty_set_makes_detection_null_with_its_reason() -> None:
    for rows in (
        metrics.ood_metrics([1.0, 2.0], [], score="x"),
        metrics.ood_metrics([], [1.0], score="x"),
        metrics.selective_metrics([1.0, 2.0], [False, False], score="x")[:1],
    ):
        for row in rows:
            assert (row.value, row.ci_low, row.ci_high, row.note) == (None, None, None, "undefined: one class only")


def test_detection_rows_carry_their_key_and_both_sizes() -> None:
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=30), generator.normal(1, 1, 20)
    rows = metrics.ood_metrics(
        inside, outside, score="gate_entropy", position_rule="prompt_mean", aggregation="mean_layers", n_resamples=50
    )
    assert [row.metric for row in rows] == ["auroc", "auprc", "fpr95"]
    for row in rows:
        assert (row.score, row.position_rule, row.aggregation) == ("gate_entropy", "prompt_mean", "mean_layers")
        assert row.n == 50
    labels = np.repeat([0, 1], [30, 20])
    assert rows[0].value == pytest.approx(roc_auc_score(labels, np.concatenate([inside, outside])))


def test_a_comparison_of_a_run_with_itself_is_exactly_zero() -> None:
    probs, answers = predictions(100)
    for row in metrics.paired_comparison(probs, probs, answers, n_resamples=20):
        assert (row.difference, row.ci_low, row.ci_high) == (0.0, None, None)


def test_swapping_run_and_baseline_flips_the_difference() -> None:
    probs, answers = predictions(100)
    softer = [np.sqrt(one) / np.sqrt(one).sum() for one in probs]
    there = by_name(metrics.paired_comparison(softer, probs, answers, n_resamples=100))
    back = by_name(metrics.paired_comparison(probs, softer, answers, n_resamples=100))
    for name, row in there.items():
        assert row.difference == pytest.approx(-back[name].difference), name
        if row.ci_low is not None:
            assert row.ci_low == pytest.approx(-back[name].ci_high), name
    assert there["nll"].ci_high < 0


def test_paired_sets_must_match() -> None:
    with pytest.raises(metrics.MetricInputError, match="same number of examples in each set"):
        metrics.paired_ood_comparison([1.0, 2.0], [3.0], [1.0], [2.0, 3.0], score="x")
    with pytest.raises(metrics.MetricInputError, match="2 questions but 1 rows"):
        metrics.calibration_metrics([[1.0], [1.0]], [0, 0], option_scores=[[1.0]], temperature=1.0)


def test_align_keeps_what_both_runs_share() -> None:
    ours, theirs = metrics.align(["c", "a", "x", "b"], ["a", "b", "c", "y"])
    assert ours == [0, 1, 3]
    assert theirs == [2, 0, 1]
    assert metrics.align([], ["a"]) == ([], [])
    for given in ((["a", "a"], ["a"]), (["a"], ["a", "a"])):
        with pytest.raises(metrics.MetricInputError, match="'a' occurs twice"):
            metrics.align(*given)
