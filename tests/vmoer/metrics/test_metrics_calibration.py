"""Calibration metrics against independent implementations, hand-computed tables and adversarial input (A1, A2, A5)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from vmoer import metrics
from vmoer.metrics.calibration import PROBABILITY_FLOOR, bin_edges, equal_mass_bin, equal_width_bin, mce_rows


def world(n: int, seed: int = 0, options: int = 4, sharpness: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, options] and answers drawn from them: a perfectly calibrated model."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(n, options)) * sharpness
    probs = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    answers = (probs.cumsum(axis=1) < generator.random((n, 1))).sum(axis=1).clip(0, options - 1)
    return probs, answers


@pytest.mark.parametrize("seed", range(5))
def test_ece_and_mce_agree_with_torchmetrics(seed: int) -> None:
    probs, answers = world(500, seed)
    answers = np.where(np.random.default_rng(seed).random(500) < 0.2, (answers + 1) % 4, answers)
    arguments = {"num_classes": 4, "n_bins": 15}
    torch_probs, torch_answers = torch.from_numpy(probs), torch.from_numpy(answers)
    expected = multiclass_calibration_error(torch_probs, torch_answers, norm="l1", **arguments)
    worst = multiclass_calibration_error(torch_probs, torch_answers, norm="max", **arguments)
    # torchmetrics takes its bin edges and sums in float32.
    assert metrics.ece(probs, answers) == pytest.approx(float(expected), abs=1e-6)
    assert metrics.mce(probs, answers, min_count=1) == pytest.approx(float(worst), abs=1e-6)


def test_nll_and_brier_agree_with_scikit_learn() -> None:
    probs, answers = world(300)
    assert metrics.nll(probs, answers) == pytest.approx(log_loss(answers, probs, labels=range(4)), rel=1e-12)
    assert metrics.brier(probs, answers) == pytest.approx(
        brier_score_loss(answers, probs, labels=range(4), scale_by_half=False), rel=1e-12
    )
    assert metrics.accuracy(probs, answers) == np.mean(probs.argmax(axis=1) == answers)


def test_ece_equals_a_hand_computed_table() -> None:
    # Bins of width 1/5: confidences .55 (right), .6 (wrong), .75 (right), .9 (wrong), 1 (right).
    probs = [[0.55, 0.45], [0.6, 0.4], [0.75, 0.25], [0.9, 0.1], [1.0, 0.0]]
    answers = [0, 1, 0, 1, 0]
    # (.4, .6]: |.55 + .6 − 1| = .15; (.6, .8]: |.75 − 1| = .25; (.8, 1]: |.9 + 1 − 1| = .9; all over n = 5.
    assert metrics.ece(probs, answers, n_bins=5) == pytest.approx((0.15 + 0.25 + 0.9) / 5)
    # Per bin: .15 / 2, .25, .9 / 2.
    assert metrics.mce(probs, answers, n_bins=5, min_count=1) == pytest.approx(0.45)
    assert metrics.mce(probs, answers, n_bins=5, min_count=2) == pytest.approx(0.45)
    assert metrics.mce(probs, answers, n_bins=5, min_count=3) is None
    assert metrics.overconfidence(probs, answers) == pytest.approx((0.55 + 0.6 + 0.75 + 0.9 + 1) / 5 - 0.6)
    assert metrics.nll(probs, answers) == pytest.approx(-np.log([0.55, 0.4, 0.75, 0.1, 1.0]).mean())
    assert metrics.brier(probs, answers) == pytest.approx((2 * 0.45**2 + 2 * 0.6**2 + 2 * 0.25**2 + 2 * 0.9**2) / 5)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    edges = bin_edges(15)
    assert equal_width_bin(edges).tolist() == [0, *range(15)]
    # The edges users can type: 0.2 = 3/15, 0.6 = 9/15, 0.8 = 12/15.
    assert equal_width_bin(np.array([0.2, 0.6, 0.8])).tolist() == [2, 8, 11]
    assert equal_width_bin(np.nextafter(np.array([0.2, 0.6, 0.8]), 1)).tolist() == [3, 9, 12]


def test_confidence_zero_and_one_are_in_the_first_and_last_bin() -> None:
    assert equal_width_bin(np.array([0.0, 1.0])).tolist() == [0, 14]
    assert metrics.ece([[1.0, 0.0]], [1]) == 1.0
    assert metrics.ece([[1.0, 0.0]], [0]) == 0.0


def test_equal_mass_bins_equal_a_hand_computed_table() -> None:
    rank = np.array([[0, 1, 2, 3, 4, 5]])
    assert equal_mass_bin(rank, 3).tolist() == [[0, 0, 1, 1, 2, 2]]
    # Four equal confidences stay together, in the bin of their middle (mid-rank 2 of 6 → ⌊3 · 2/6⌋ = 1).
    assert equal_mass_bin(np.array([[0, 0, 0, 0, 1, 2]]), 3).tolist() == [[1, 1, 1, 1, 2, 2]]
    probs = [[0.5, 0.5], [0.5, 0.5], [0.7, 0.3], [0.9, 0.1]]
    # n = 4, two bins: {.5, .5} with one right, {.7, .9} with none right.
    assert metrics.adaptive_ece(probs, [0, 1, 1, 1], n_bins=2) == pytest.approx((0 + 1.6) / 4)


def test_adaptive_ece_agrees_with_array_split_when_nothing_ties() -> None:
    probs, answers = world(600)
    order = np.argsort(probs.max(axis=1))
    gap = (probs.max(axis=1) - (probs.argmax(axis=1) == answers))[order]
    expected = sum(abs(part.sum()) for part in np.array_split(gap, 15)) / 600
    assert metrics.adaptive_ece(probs, answers) == pytest.approx(expected, rel=1e-12)


def test_adaptive_bins_do_not_depend_on_the_order_of_tied_examples() -> None:
    generator = np.random.default_rng(3)
    confidence = generator.choice([0.5, 0.6, 0.7, 0.8], 101)
    probs = np.stack([confidence, 1 - confidence], axis=1)
    answers = generator.integers(0, 2, 101)
    shuffle = generator.permutation(101)
    assert metrics.adaptive_ece(probs, answers) == pytest.approx(
        metrics.adaptive_ece(probs[shuffle], answers[shuffle]), rel=1e-12
    )


def test_questions_may_have_different_numbers_of_options() -> None:
    ragged = [[0.2, 0.5, 0.3], [0.1, 0.2, 0.3, 0.4], [0.6, 0.1, 0.1, 0.1, 0.1]]
    answers = [1, 3, 2]
    assert metrics.confidence(ragged).tolist() == [0.5, 0.4, 0.6]
    assert metrics.predicted(ragged).tolist() == [1, 3, 0]
    assert metrics.accuracy(ragged, answers) == pytest.approx(2 / 3)
    assert metrics.nll(ragged, answers) == pytest.approx(-np.log([0.5, 0.4, 0.1]).mean())
    brier = [0.2**2 + 0.5**2 + 0.3**2, 0.1**2 + 0.2**2 + 0.3**2 + 0.6**2, 0.6**2 + 3 * 0.1**2 + 0.9**2]
    assert metrics.brier(ragged, answers) == pytest.approx(np.mean(brier))


def test_no_questions_give_none_not_a_number() -> None:
    for metric in (
        metrics.accuracy,
        metrics.ece,
        metrics.adaptive_ece,
        metrics.mce,
        metrics.nll,
        metrics.brier,
        metrics.overconfidence,
    ):
        assert metric([], []) is None, metric.__name__


def test_one_question_and_fewer_questions_than_bins() -> None:
    for metric in (metrics.ece, metrics.adaptive_ece):
        assert metric([[0.7, 0.3]], [0]) == pytest.approx(0.3)
        assert metric([[0.9, 0.1], [0.3, 0.7]], [0, 0]) == pytest.approx((0.1 + 0.7) / 2)


def test_all_equal_confidences_give_the_plain_gap() -> None:
    probs = [[0.75, 0.25]] * 40
    for answers, expected in (([0] * 40, 0.25), ([1] * 40, 0.75), ([0] * 30 + [1] * 10, 0.0)):
        assert metrics.ece(probs, answers) == pytest.approx(expected)
        assert metrics.adaptive_ece(probs, answers) == pytest.approx(expected)
        assert metrics.mce(probs, answers) == pytest.approx(expected)


def test_a_certain_error_costs_a_finite_number_of_nats() -> None:
    assert metrics.nll([[1.0, 0.0]], [1]) == pytest.approx(-np.log(PROBABILITY_FLOOR))


def test_tied_options_predict_the_first_one() -> None:
    assert metrics.predicted([[0.25] * 4, [0.2, 0.4, 0.4]]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("probs", "answers", "sentence"),
    [
        ([[0.5, np.nan]], [0], "question 0 hold nan"),
        ([[0.5, 0.5], [np.inf, 0.5]], [0, 0], "question 1 hold inf"),
        ([[0.5, 0.5], [0.5, -np.inf]], [0, 0], "question 1 hold -inf"),
        ([[1.2, -0.2]], [0], r"outside \[0, 1\]"),
        ([[0.5, 0.2]], [0], "sum to 0.7"),
        ([[]], [0], "non-empty list"),
        ([[0.5, 0.5]], [2], "answer 2 of question 0 is not one of its options 0 to 1"),
        ([[0.5, 0.5], [0.2, 0.3, 0.5]], [2, 2], "answer 2 of question 0"),
        ([[0.5, 0.5]], [-1], "answer -1 of question 0"),
        ([[0.5, 0.5]], [0.0], "must be integer option indices"),
        ([[0.5, 0.5]], [0, 1], "1 questions but answers of shape"),
    ],
)
def test_impossible_input_is_refused_with_the_question_named(probs: list, answers: list, sentence: str) -> None:
    for metric in (metrics.ece, metrics.nll, metrics.accuracy):
        with pytest.raises(metrics.MetricInputError, match=sentence):
            metric(probs, answers)


def test_ece_of_a_calibrated_model_is_biased_upward_on_few_examples_as_documented() -> None:
    means = {}
    for n in (200, 600):
        means[n] = [np.mean([f(*world(n, seed)) for seed in range(60)]) for f in (metrics.ece, metrics.adaptive_ece)]
    # The values that the definitions quote.
    assert means[200] == pytest.approx([0.07, 0.10], abs=0.015)
    assert means[600] == pytest.approx([0.04, 0.06], abs=0.01)


def test_a_bin_below_the_minimum_count_never_sets_the_mce() -> None:
    bins = np.array([[0] * 10 + [1] * 9])
    gap = np.array([[0.1] * 10 + [1.0] * 9])
    assert mce_rows(bins, gap, 15, 10).tolist() == pytest.approx([0.1])
    assert mce_rows(bins, gap, 15, 9).tolist() == pytest.approx([1.0])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 2**31), st.integers(1, 20))
def test_bounds_and_order_hold_for_any_predictions(n: int, options: int, seed: int, n_bins: int) -> None:
    generator = np.random.default_rng(seed)
    # Whole percents, so that confidences tie, sit on edges and reach exactly 1.
    probs = generator.multinomial(100, generator.dirichlet([0.5] * options, n)) / 100
    answers = generator.integers(0, options, n)
    value, adaptive = metrics.ece(probs, answers, n_bins), metrics.adaptive_ece(probs, answers, n_bins)
    worst = metrics.mce(probs, answers, n_bins, min_count=1)
    assert value is not None
    assert adaptive is not None
    assert worst is not None
    signed = abs(metrics.overconfidence(probs, answers) or 0.0)
    # |mean gap| ≤ Σ of binned |gaps| ≤ worst bin, and everything lies in [0, 1].
    assert signed - 1e-12 <= value <= worst + 1e-12
    assert signed - 1e-12 <= adaptive <= 1 + 1e-12
    assert worst <= 1 + 1e-12
    shuffle = generator.permutation(n)
    assert metrics.ece(probs[shuffle], answers[shuffle], n_bins) == pytest.approx(value, abs=1e-12)
