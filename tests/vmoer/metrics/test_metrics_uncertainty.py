"""Uncertainty of answers and samples: limits that theory gives, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from vmoer import metrics


def test_entropy_agrees_with_scipy_and_reaches_its_limits() -> None:
    probs = np.random.default_rng(0).dirichlet([0.5] * 4, 50)
    np.testing.assert_allclose(metrics.predictive_entropy(probs), entropy(probs, axis=1), atol=1e-12)
    assert metrics.predictive_entropy([[1.0, 0.0], [0.2] * 5]).tolist() == pytest.approx([0.0, np.log(5)])
    assert metrics.one_minus_max_prob([[1.0, 0.0], [0.2] * 5]).tolist() == pytest.approx([0.0, 0.8])


def test_samples_that_agree_carry_no_mutual_information() -> None:
    probs = np.random.default_rng(0).dirichlet([0.5] * 4, 20)
    assert metrics.mutual_information(np.stack([probs] * 7)) == pytest.approx(np.zeros(20), abs=1e-12)
    assert (metrics.mutual_information(np.stack([probs] * 7)) >= 0).all()
    assert metrics.variation_ratio(np.stack([probs] * 7)).tolist() == [0.0] * 20


def test_samples_that_disagree_completely_carry_all_of_it() -> None:
    samples = np.eye(3)[:, None, :]
    assert metrics.mutual_information(samples).tolist() == pytest.approx([np.log(3)])
    assert metrics.variation_ratio(samples).tolist() == pytest.approx([2 / 3])


def test_absent_options_change_nothing() -> None:
    samples = np.random.default_rng(0).dirichlet([1.0] * 3, (5, 8))
    padded = np.concatenate([samples, np.zeros((5, 8, 2))], axis=-1)
    np.testing.assert_allclose(metrics.mutual_information(padded), metrics.mutual_information(samples), atol=1e-15)
    assert metrics.variation_ratio(padded).tolist() == metrics.variation_ratio(samples).tolist()


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (np.full((1, 2, 2), 0.5), "at least 2"),
        (np.full((2, 2), 0.5), r"\[samples, n, options\]"),
        (np.full((2, 2, 2), np.nan), "finite"),
        (np.full((2, 2, 2), 0.4), "sum to 1"),
        (np.broadcast_to([1.5, -0.5], (2, 2, 2)), r"in \[0, 1\]"),
    ],
)
def test_impossible_samples_are_refused(samples: np.ndarray, sentence: str) -> None:
    for quantity in (metrics.mutual_information, metrics.variation_ratio):
        with pytest.raises(metrics.MetricInputError, match=sentence):
            quantity(samples)
