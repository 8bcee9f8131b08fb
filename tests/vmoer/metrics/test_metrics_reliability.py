"""Reliability bins: they are the ECE, their columns fit the store, and their intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from store.schema import TABLES
from vmoer import metrics


def predictions(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.dirichlet([0.6] * 4, n), generator.integers(0, 4, n)


@pytest.mark.parametrize("scheme", ["equal-width", "adaptive"])
def test_the_bins_add_up_to_the_ece(scheme: str) -> None:
    probs, answers = predictions(400)
    table = metrics.reliability_bins(probs, answers, scheme)
    total = sum(
        n * abs(confidence - accuracy)
        for n, confidence, accuracy in zip(table["n"], table["mean_confidence"], table["accuracy"], strict=True)
        if n
    )
    expected = metrics.ece(probs, answers) if scheme == "equal-width" else metrics.adaptive_ece(probs, answers)
    assert total / 400 == pytest.approx(expected, rel=1e-9)
    assert sum(table["n"]) == 400


def test_chance_is_what_calibrated_answers_show() -> None:
    probs, _ = predictions(300)
    table = metrics.reliability_bins(probs, np.zeros(300, dtype=int))
    expected = metrics.chance_ece(zip(table["n"], table["mean_confidence"], strict=True))
    generator = np.random.default_rng(1)
    worlds = [metrics.ece(probs, [generator.choice(4, p=one) for one in probs]) for _ in range(400)]
    # the mean of a bin stands for its confidences: their own spread is what is left out
    assert expected == pytest.approx(np.mean(worlds), rel=0.03)
    exact = stats.binom(7, 0.3)
    assert metrics.chance_ece([(7, 0.3), (0, None)]) == pytest.approx(
        sum(exact.pmf(hits) * abs(hits - 2.1) for hits in range(8)) / 7
    )
    assert metrics.chance_ece([(5, 1.0), (2, 0.0)]) == 0
    assert metrics.chance_ece([(0, None)]) is None


def test_the_columns_are_those_of_the_store() -> None:
    table = TABLES["reliability_bins"]
    columns = metrics.reliability_bins(*predictions(50))
    assert [*columns] == [name for name in table.column_names if name not in ("run_id", "dataset", "calibration")]
    assert len({len(values) for values in columns.values()}) == 1
    for name, values in columns.items():
        if not table.column(name).nullable:
            assert None not in values, name


def test_empty_bins_are_listed_with_nulls_and_their_edges() -> None:
    table = metrics.reliability_bins([[0.5, 0.5]], [0])
    assert len(table["bin"]) == 15
    filled = table["n"].index(1)
    assert (table["lower"][filled], table["upper"][filled]) == (7 / 15, 8 / 15)
    empty = [number for number in range(15) if number != filled]
    for name in ("mean_confidence", "accuracy", "ci_low", "ci_high"):
        assert all(table[name][number] is None for number in empty), name
        assert table[name][filled] is not None, name


def test_adaptive_edges_tile_the_unit_interval_and_hold_their_bin() -> None:
    probs, answers = predictions(100)
    table = metrics.reliability_bins(probs, answers, "adaptive")
    assert (table["lower"][0], table["upper"][-1]) == (0.0, 1.0)
    assert table["lower"][1:] == table["upper"][:-1]
    confidence = metrics.confidence(probs)
    for lower, upper, n in zip(table["lower"], table["upper"], table["n"], strict=True):
        assert np.count_nonzero((confidence > lower) & (confidence <= upper)) == n


def test_no_examples_give_empty_bins_not_an_error() -> None:
    assert sum(metrics.reliability_bins([], [])["n"]) == 0
    assert metrics.reliability_bins([], [], "adaptive")["bin"] == []


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(metrics.MetricInputError, match="'equal-width' or 'adaptive'"):
        metrics.reliability_bins([[1.0]], [0], "equal")  # type: ignore[arg-type]


def test_wilson_interval_equals_the_textbook_values() -> None:
    low, high = metrics.wilson_interval([8, 0, 10, 0], [10, 10, 10, 0])
    # Score interval solved from |p − p̂| = z·√(p(1 − p)/n): roots of the quadratic for 8 of 10.
    z, share, n = 1.959963984540054, 0.8, 10
    roots = np.sort(np.roots([1 + z**2 / n, -(2 * share + z**2 / n), share**2]))
    assert (low[0], high[0]) == (pytest.approx(roots[0]), pytest.approx(roots[1]))
    assert (low[1], high[2]) == (0.0, 1.0)
    assert high[1] == pytest.approx(1 - low[2])
    assert (low[3], high[3]) == (0.0, 1.0)


def test_wilson_interval_covers_a_proportion() -> None:
    hits = np.random.default_rng(0).binomial(30, 0.9, 4000)
    low, high = metrics.wilson_interval(hits, np.full(4000, 30))
    assert 0.93 <= np.mean((low <= 0.9) & (high >= 0.9)) <= 0.98
