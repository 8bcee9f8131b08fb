"""Bootstrap intervals: coverage, pairing, reproducibility, and honesty when there is nothing to say (A4, A5)."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from vmoer import metrics
from vmoer.metrics.calibration import adaptive_ece_rows, answered, dense_rank, ece_rows, equal_width_bin
from vmoer.metrics.ood import auroc_rows


def mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=-1)


def width(found: metrics.Interval) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def covers(found: metrics.Interval | metrics.MetricValue | metrics.Comparison, truth: float) -> bool:
    low, high = (found.low, found.high) if isinstance(found, metrics.Interval) else (found.ci_low, found.ci_high)
    return low is not None and high is not None and low <= truth <= high


def calibrated_world(n: int, seed: int, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated probabilities, the same with every score times ``factor``, and the answers."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(n, 4)) * 1.5
    softmax = [np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in (scores, scores * factor)]
    answers = (softmax[0].cumsum(axis=1) < generator.random((n, 1))).sum(axis=1).clip(0, 3)
    return softmax[0], softmax[1], answers


@pytest.mark.parametrize("kind", ["percentile", "bca", "bias-corrected"])
def test_the_interval_of_a_mean_equals_its_normal_one(kind) -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = metrics.interval(mean, values, n_resamples=4000, kind=kind)
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bca_follows_the_skew_that_percentile_ignores() -> None:
    hits = {"bca": 0, "percentile": 0}
    for seed in range(200):
        values = np.random.default_rng(seed).exponential(size=30) ** 2
        for kind in hits:
            found = metrics.interval(mean, values, n_resamples=400, seed=seed, kind=kind)  # type: ignore[arg-type]
            hits[kind] += covers(found, 2.0)
    assert hits["bca"] > hits["percentile"]


def test_a_paired_difference_covers_at_its_stated_rate() -> None:
    hits = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        shared = generator.normal(size=120)
        first, second = shared + generator.normal(0.2, 0.5, 120), shared + generator.normal(0, 0.5, 120)
        hits += covers(metrics.paired_difference(mean, [first], [second], n_resamples=400, seed=seed), 0.2)
    assert 0.90 <= hits / 200 <= 0.99


def test_pairing_is_narrower_than_two_separate_intervals_on_correlated_data() -> None:
    generator = np.random.default_rng(0)
    shared = generator.normal(size=300)
    first, second = shared + generator.normal(0, 0.2, 300), shared + generator.normal(0, 0.2, 300)
    paired = metrics.paired_difference(mean, [first], [second])
    unpaired = metrics.interval(
        lambda values, side: (
            np.nanmean(np.where(side, values, np.nan), axis=-1) - np.nanmean(np.where(side, np.nan, values), axis=-1)
        ),
        np.concatenate([first, second]),
        np.repeat([True, False], 300),
        groups=np.repeat([0, 1], 300),
    )
    # Correlation is 1 / 1.04, so the paired spread is √(1 − 1/1.04) = 0.196 of the other.
    assert width(paired) / width(unpaired) == pytest.approx(0.196, rel=0.15)


@pytest.mark.parametrize("n", [60, 200])
@pytest.mark.parametrize("factor", [1.0, 1.3, 2.5])
def test_the_interval_of_ece_holds_the_truth_for_calibrated_and_overconfident_models(n: int, factor: float) -> None:
    _, sharp, answers = calibrated_world(100_000, 999, factor)
    truth = metrics.ece(sharp, answers) if factor != 1 else 0.0
    assert truth is not None
    hits = 0
    for seed in range(120):
        _, sharp, answers = calibrated_world(n, seed, factor)
        rows = {row.metric: row for row in metrics.calibration_metrics(sharp, answers, n_resamples=200, seed=seed)}
        hits += covers(rows["ece"], truth)
    # Three standard errors of 120 trials below a true rate of 93 %: the percentile interval reaches 0 to 60 % here.
    assert hits / 120 >= 0.86


def test_the_percentile_interval_of_ece_misses_a_calibrated_model() -> None:
    # Why `bias-corrected` exists; if this ever passes by percentile, the correction can go.
    hits = 0
    for seed in range(40):
        probs, _, answers = calibrated_world(200, seed)
        each = answered(probs, answers)
        arrays = equal_width_bin(each.confidence), each.gap
        hits += covers(metrics.interval(ece_rows, *arrays, n_resamples=200, seed=seed), 0.0)
    assert hits == 0


def test_a_paired_difference_of_ece_covers_when_only_one_side_is_calibrated() -> None:
    calibrated, sharp, answers = calibrated_world(100_000, 999, 2.0)
    baseline = metrics.ece(sharp, answers)
    assert baseline is not None
    hits = {"ece": 0, "nll": 0, "accuracy": 0}
    truths = {"ece": -baseline, "accuracy": 0.0}
    nlls = [metrics.nll(one, answers) for one in (calibrated, sharp)]
    assert nlls[0] is not None
    assert nlls[1] is not None
    truths["nll"] = nlls[0] - nlls[1]
    for seed in range(100):
        calibrated, sharp, answers = calibrated_world(150, seed, 2.0)
        rows = {r.metric: r for r in metrics.paired_comparison(calibrated, sharp, answers, n_resamples=200, seed=seed)}
        for name in hits:
            hits[name] += covers(rows[name], truths[name])
    assert hits["ece"] >= 86
    assert hits["nll"] >= 86
    # Scaling all scores never changes a prediction: the difference is exactly 0 and has no interval to state.
    assert rows["accuracy"].difference == 0.0
    assert hits["accuracy"] == 0


@pytest.mark.parametrize(("n", "factor"), [(400, 1.15), (400, 1.3), (1000, 1.3)])
def test_a_paired_difference_of_ece_covers_when_chance_hides_the_baselines_error(n: int, factor: float) -> None:
    """A true ECE of .036 or .066 looks like chance at this n; it was taken for chance, always against the run (A4)."""
    _, sharp, answers = calibrated_world(100_000, 999, factor)
    truth = metrics.ece(sharp, answers)
    assert truth is not None
    hits = 0
    for seed in range(120):
        calibrated, sharp, answers = calibrated_world(n, seed, factor)
        rows = metrics.paired_comparison(calibrated, sharp, answers, n_resamples=200, seed=seed)
        hits += covers(next(row for row in rows if row.metric == "ece"), -truth)
    # Three standard errors of 120 trials below a true rate of 94 %: it was 72, 65 and 92 %.
    assert hits / 120 >= 0.875


def test_auroc_interval_covers_and_keeps_the_class_sizes() -> None:
    truth = 0.7602499389  # Φ(1/√2): two unit normals one apart
    hits = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        rows = metrics.ood_metrics(
            generator.normal(0, 1, 60), generator.normal(1, 1, 40), score="x", n_resamples=300, seed=seed
        )
        hits += covers(rows[0], truth)
    assert 0.90 <= hits / 200 <= 0.99

    sizes = metrics.resample(
        lambda label: label.sum(axis=-1), np.array([0, 1, 1, 0, 0]), groups=[0, 1, 1, 0, 0], n_resamples=50
    )
    assert set(sizes.tolist()) == {2.0}


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    values = np.random.default_rng(0).random(50)
    first, again = (metrics.interval(mean, values, seed=7) for _ in range(2))
    assert first == again
    assert metrics.interval(mean, values, seed=8) != first
    assert metrics.interval(mean, values, seed=np.random.default_rng(7)) == first


def test_global_random_state_is_untouched() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    probs, sharp, answers = calibrated_world(40, 0, 2.0)
    metrics.calibration_metrics(probs, answers, ids=range(40), n_resamples=20)
    metrics.paired_comparison(probs, sharp, answers, n_resamples=20)
    metrics.ood_metrics([0.0, 1.0], [2.0, 3.0], score="x", n_resamples=20)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index, union-attr]


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_examples_have_no_interval(n: int) -> None:
    found = metrics.interval(mean, np.ones(n))
    assert (found.low, found.high) == (None, None)
    assert found.reason == f"no interval: {n} example{'s' if n != 1 else ''}"


def test_a_statistic_that_never_varies_has_no_interval() -> None:
    found = metrics.interval(mean, np.ones(30))
    assert (found.low, found.high) == (None, None)
    assert "same value" in str(found.reason)
    perfect = metrics.ood_metrics(np.arange(5.0), np.arange(5.0) + 10, score="x")[0]
    assert (perfect.value, perfect.ci_low, perfect.ci_high) == (1.0, None, None)
    assert "same value" in str(perfect.note)


def test_resamples_with_one_class_only_are_counted_and_too_many_give_no_interval() -> None:
    rank = np.arange(12)
    rare = np.array([False] * 11 + [True])
    found = metrics.interval(auroc_rows, rank, rare, n_resamples=500)
    # The single positive is left out with probability (11/12)¹² = .352.
    assert found.n_undefined == pytest.approx(0.352 * 500, abs=45)
    assert found.low is None
    assert f"undefined in {found.n_undefined} of 500" in str(found.reason)
    even = metrics.interval(auroc_rows, rank, np.arange(12) % 3 == 0, n_resamples=500)
    assert 0 < even.n_undefined <= 25
    assert even.low is not None


def test_an_undefined_statistic_has_no_interval() -> None:
    found = metrics.interval(auroc_rows, np.arange(5), np.zeros(5, dtype=bool))
    assert found.low is None
    assert "itself is undefined" in str(found.reason)


def test_batches_do_not_change_the_statistic(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((40, 3))
    statistic = lambda rows: rows.mean(axis=(-2, -1))  # noqa: E731
    whole = metrics.resample(statistic, values, n_resamples=100)
    monkeypatch.setattr("vmoer.metrics.bootstrap.CELLS_AT_ONCE", 7 * values.size)
    assert metrics.resample(statistic, values, n_resamples=100).tolist() == whole.tolist()


@pytest.mark.parametrize(
    ("arrays", "options", "sentence"),
    [
        ([np.ones(3), np.ones(4)], {}, "same number of examples"),
        ([np.float64(1)], {}, "same number of examples"),
        ([], {}, "at least one array"),
        ([np.arange(3)], {"n_resamples": 0}, "at least 1"),
        ([np.arange(3)], {"level": 1.0}, "between 0 and 1"),
        ([np.arange(3)], {"groups": [0, 1]}, "3 labels"),
        ([np.arange(3)], {"kind": "bayes"}, "'percentile', 'bca' or 'bias-corrected'"),
    ],
)
def test_impossible_requests_are_refused(arrays: list, options: dict, sentence: str) -> None:
    with pytest.raises(metrics.MetricInputError, match=sentence):
        metrics.interval(lambda *given: mean(given[0]), *arrays, **options)


def test_a_statistic_that_ignores_the_resample_axis_is_refused() -> None:
    with pytest.raises(metrics.MetricInputError, match="one number per resample"):
        metrics.interval(np.mean, np.arange(5))


def test_two_thousand_resamples_of_ece_take_well_under_a_second() -> None:
    probs, _, answers = calibrated_world(600, 0)
    each = answered(probs, answers)
    for statistic, index in (
        (ece_rows, equal_width_bin(each.confidence)),
        (adaptive_ece_rows, dense_rank(each.confidence)),
    ):
        start = time.process_time()
        metrics.interval(statistic, index, each.gap, n_resamples=2000, kind="bias-corrected")
        assert time.process_time() - start < 0.9, statistic.__name__
