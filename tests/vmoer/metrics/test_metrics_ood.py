"""OoD detection and selective prediction against scikit-learn, hand-computed tables and adversarial input (A3)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from vmoer import metrics

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


def labelled(inside: list, outside: list) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat([0, 1], [len(inside), len(outside)]), np.array([*inside, *outside], dtype=float)


@settings(deadline=None, max_examples=150)
@given(SCORES, SCORES)
def test_all_three_agree_with_scikit_learn_on_tied_scores(inside: list, outside: list) -> None:
    labels, scores = labelled(inside, outside)
    assert metrics.auroc(inside, outside) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.auprc(inside, outside) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    false, true, _ = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    assert metrics.fpr_at_tpr(inside, outside) == pytest.approx(false[np.argmax(true >= 0.95 - 1e-12)], abs=1e-12)
    ours_false, ours_true = metrics.roc_curve(inside, outside)
    np.testing.assert_allclose(ours_false, false, atol=1e-12)
    np.testing.assert_allclose(ours_true, true, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(SCORES, SCORES)
def test_swapping_the_classes_or_the_sign_shows_as_one_minus_the_value(inside: list, outside: list) -> None:
    value = metrics.auroc(inside, outside)
    assert value is not None
    assert metrics.auroc(outside, inside) == pytest.approx(1 - value, abs=1e-12)
    assert metrics.auroc([-one for one in inside], [-one for one in outside]) == pytest.approx(1 - value, abs=1e-12)
    # Only the order counts.
    assert metrics.auroc(np.exp(inside), np.exp(outside)) == pytest.approx(value, abs=1e-12)


def test_hand_computed_values() -> None:
    # Pairs (OoD, ID): 3 > 1, 3 > 2, 2 > 1, 2 = 2 → 3.5 of 4.
    assert metrics.auroc([1, 2], [2, 3]) == 0.875
    # Thresholds 3: P = 1, R = 1/2; 2: P = 2/3, R = 1.
    assert metrics.auprc([1, 2], [2, 3]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.fpr_at_tpr([1, 2], [2, 3]) == 0.5
    assert metrics.fpr_at_tpr([1, 2], [2, 3], tpr=0.5) == 0.0


def test_two_examples_and_all_ties() -> None:
    assert metrics.auroc([0], [1]) == 1.0
    assert metrics.auroc([1], [0]) == 0.0
    assert metrics.auroc([1, 1, 1], [1, 1]) == 0.5
    assert metrics.auprc([1, 1, 1], [1, 1]) == pytest.approx(0.4)
    assert metrics.fpr_at_tpr([1, 1, 1], [1, 1]) == 1.0


def test_ninety_five_percent_of_twenty_is_nineteen() -> None:
    # 19 of 20 OoD scores lie above every ID score: no rounding of 0.95 × 20 may ask for the twentieth.
    assert metrics.fpr_at_tpr(np.zeros(10), [-1.0, *np.ones(19)]) == 0.0


@pytest.mark.parametrize("metric", [metrics.auroc, metrics.auprc, metrics.fpr_at_tpr])
def test_one_class_only_is_none_not_an_exception(metric) -> None:
    assert metric([], [1.0, 2.0]) is None
    assert metric([1.0], []) is None
    assert metric([], []) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(metrics.MetricInputError, match=r"in-distribution scores hold .* at index 1"):
        metrics.auroc([0.0, bad], [1.0])
    with pytest.raises(metrics.MetricInputError, match="OoD scores hold"):
        metrics.ood_metrics([0.0], [bad], score="answer_entropy")
    with pytest.raises(metrics.MetricInputError, match="uncertainties hold"):
        metrics.error_auroc([bad], [True])


def test_an_inverted_score_is_noted_and_never_flipped() -> None:
    generator = np.random.default_rng(0)
    rows = {
        row.metric: row
        for row in metrics.ood_metrics(generator.normal(1, 1, 80), generator.normal(0, 1, 80), score="logit_variance")
    }
    assert rows["auroc"].value is not None
    assert rows["auroc"].value < 0.5
    assert rows["auroc"].note == "inverted: below 0.5"
    assert rows["auprc"].note is None


def test_error_auroc_ranks_wrong_answers() -> None:
    assert metrics.error_auroc([0.1, 0.2, 0.9], [False, False, True]) == 1.0
    assert metrics.error_auroc([0.1, 0.2, 0.9], [1, 0, 0]) == 0.0
    assert metrics.error_auroc([0.1, 0.2], [False, False]) is None


def test_risk_coverage_equals_a_hand_computed_table() -> None:
    coverage, risk = metrics.risk_coverage([0.3, 0.1, 0.2, 0.4], [True, False, False, True])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 0, 1 / 3, 0.5])
    assert metrics.aurc([0.3, 0.1, 0.2, 0.4], [True, False, False, True]) == pytest.approx((1 / 3 + 0.5) / 4)


def test_tied_uncertainties_have_the_expected_risk_over_all_orders() -> None:
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 4, 40)
    wrong = generator.random(40) < 0.4
    orders = []
    for _ in range(3000):
        order = np.lexsort((generator.random(40), scores))
        orders.append(np.mean(np.cumsum(wrong[order]) / np.arange(1, 41)))
    assert metrics.aurc(scores, wrong) == pytest.approx(np.mean(orders), abs=4 * np.std(orders) / np.sqrt(3000))
    shuffle = generator.permutation(40)
    assert metrics.aurc(scores[shuffle], wrong[shuffle]) == pytest.approx(metrics.aurc(scores, wrong), abs=1e-12)


def test_full_coverage_risk_is_the_error_rate() -> None:
    generator = np.random.default_rng(2)
    wrong = generator.random(200) < 0.3
    _, risk = metrics.risk_coverage(generator.random(200), wrong)
    assert risk[-1] == pytest.approx(wrong.mean())
    assert metrics.aurc([], []) is None


def test_flags_must_be_one_boolean_per_example() -> None:
    with pytest.raises(metrics.MetricInputError, match="2 booleans"):
        metrics.aurc([0.1, 0.2], [True])
    with pytest.raises(metrics.MetricInputError, match="true or false"):
        metrics.aurc([0.1, 0.2], [2, 0])


def test_length_matching_takes_as_many_of_each_length_and_removes_what_length_alone_explains() -> None:
    generator = np.random.default_rng(0)
    inside, outside = generator.integers(5, 30, 400), generator.integers(15, 45, 300)
    assert metrics.auroc(inside, outside) > 0.8, "longer prompts are told apart by their length"
    first, second = metrics.length_matched(inside, outside)
    assert len(first) == len(second) > 50
    assert len(set(first)) == len(first)
    assert abs(metrics.auroc(inside[first], outside[second]) - 0.5) < 0.12
    again = metrics.length_matched(inside, outside)
    assert (again[0] == first).all()
    assert (again[1] == second).all()
    empty = metrics.length_matched([1.0, 2.0], [50.0, 60.0])
    assert len(empty[0]) == 0
