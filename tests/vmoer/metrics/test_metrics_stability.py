"""Routing stability: the Jaccard index, its exact chance level and the susceptibility rule (A6)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.schema import TABLES
from vmoer import metrics


def random_sets(tokens: int, k: int, n_experts: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((tokens, n_experts)).argsort(axis=1)[:, :k]


def test_jaccard_equals_python_sets_whatever_the_order() -> None:
    first, second = random_sets(300, 4, 12, 0), random_sets(300, 4, 12, 1)
    expected = [len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert metrics.jaccard(first, second).tolist() == pytest.approx(expected)
    assert metrics.jaccard(first[:, ::-1], second.astype(np.uint16)).tolist() == pytest.approx(expected)
    assert metrics.jaccard(first.reshape(30, 10, 4), second.reshape(30, 10, 4)).shape == (30, 10)


def test_the_published_points_of_eight_experts() -> None:
    clean = np.arange(8)
    for kept, expected in ((8, 1.0), (7, 0.778), (6, 0.6), (5, 0.455), (0, 0.0)):
        noisy = np.concatenate([clean[:kept], np.arange(20, 28 - kept)])
        assert metrics.jaccard(clean, noisy) == pytest.approx(expected, abs=5e-4)
        assert metrics.overlap(clean, noisy) == kept


@pytest.mark.parametrize(("k", "n_experts"), [(2, 8), (8, 40), (5, 7), (1, 16)])
def test_chance_level_equals_simulation(k: int, n_experts: int) -> None:
    values = metrics.jaccard(random_sets(40_000, k, n_experts, 0), random_sets(40_000, k, n_experts, 1))
    error = 4 * values.std() / np.sqrt(values.size)
    assert metrics.chance_jaccard(k, n_experts) == pytest.approx(values.mean(), abs=error)


def test_chance_level_at_the_ends_and_for_a_thousand_experts() -> None:
    assert metrics.chance_jaccard(8, 40) == pytest.approx(0.117, abs=5e-4)
    assert metrics.chance_jaccard(4, 4) == 1.0
    assert metrics.chance_jaccard(1, 1) == 1.0
    assert metrics.chance_jaccard(1, 10) == pytest.approx(0.1)
    assert 0 < metrics.chance_jaccard(8, 1024) < 0.005
    assert 0 < metrics.chance_jaccard(512, 1024) < 1


def test_the_threshold_is_the_published_line_for_eight_of_forty() -> None:
    assert metrics.susceptibility_threshold(8, 40) == pytest.approx(0.6)
    assert metrics.is_susceptible(0.599, 8, 40)
    assert not metrics.is_susceptible(0.601, 8, 40)


@given(st.integers(1, 64), st.integers(1, 64))
def test_the_threshold_lies_between_chance_and_one(k: int, more: int) -> None:
    n_experts = k + more
    chance, threshold = metrics.chance_jaccard(k, n_experts), metrics.susceptibility_threshold(k, n_experts)
    assert chance < threshold < 1
    assert metrics.is_susceptible(chance, k, n_experts)
    assert not metrics.is_susceptible(1.0, k, n_experts)


def test_a_layer_that_uses_all_experts_is_never_susceptible() -> None:
    assert not metrics.is_susceptible(1.0, 8, 8)
    assert not metrics.is_susceptible(1.0 - 1e-12, 8, 8)


@pytest.mark.parametrize(("k", "n_experts"), [(0, 8), (9, 8), (1, 0)])
def test_impossible_set_sizes_are_refused(k: int, n_experts: int) -> None:
    with pytest.raises(metrics.MetricInputError, match="k must lie between 1"):
        metrics.chance_jaccard(k, n_experts)


def test_broken_expert_sets_are_refused() -> None:
    with pytest.raises(metrics.MetricInputError, match="names an expert twice"):
        metrics.jaccard([[1, 1]], [[1, 2]])
    with pytest.raises(metrics.MetricInputError, match="must be integers"):
        metrics.jaccard([[0.5, 1.0]], [[1, 2]])
    with pytest.raises(metrics.MetricInputError, match="different tokens"):
        metrics.jaccard([[0, 1]], [[0, 1], [1, 2]])


def test_a_stability_row_fits_the_store() -> None:
    values = metrics.jaccard(random_sets(90, 2, 8, 0), random_sets(90, 2, 8, 1))
    row = metrics.layer_stability(values, np.repeat(np.arange(9), 10), 2, 8)
    columns = TABLES["layer_susceptibility"].column_names
    assert [name for name in columns if name in row] == [*row]
    assert {*columns} - {*row} == {"run_id", "mode", "gamma", "layer"}
    assert row["ci_low"] < row["jaccard"] < row["ci_high"]
    assert row["susceptible"] is True
    assert row["quantiles"][0] == values.min()
    assert row["quantiles"][3] == np.median(values)
    assert row["quantiles"][-1] == values.max()
    assert row["n"] == 90


def test_tokens_of_one_prompt_do_not_count_as_independent() -> None:
    generator = np.random.default_rng(0)
    level = generator.random(40)
    values, owner = np.repeat(level, 50), np.repeat(np.arange(40), 50)
    clustered = metrics.mean_interval_by_example(values, owner)
    naive = metrics.mean_interval_by_example(values, np.arange(values.size))
    assert clustered.low is not None
    assert clustered.high is not None
    assert naive.low is not None
    assert naive.high is not None
    # 50 copies of each value add nothing: the honest interval is √50 times as wide as the naive one.
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(np.sqrt(50), rel=0.2)


def test_one_prompt_gives_no_interval_and_none_gives_a_sentence() -> None:
    row = metrics.layer_stability([0.5, 1.0], ["a", "a"], 2, 8)
    assert (row["ci_low"], row["ci_high"]) == (None, None)
    with pytest.raises(metrics.MetricInputError, match="at least one token"):
        metrics.layer_stability([], [], 2, 8)
    with pytest.raises(metrics.MetricInputError, match=r"lie in \[0, 1\]"):
        metrics.layer_stability([1.5], ["a"], 2, 8)
