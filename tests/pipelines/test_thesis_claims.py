"""The rule that turns a paired difference into a verdict, and the suite file: what is planned, what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipelines.errors import DataError, SpecError
from pipelines.reproduce.claims import (
    CLAIMS,
    Change,
    Claim,
    Matched,
    Word,
    confirmed,
    flops_verdict,
    judge,
    overall,
    relative_change,
)
from pipelines.reproduce.results import Results
from pipelines.reproduce.search import Duel, holds, outcome
from pipelines.reproduce.suite import load_suite, plan, present_sets
from pipelines.settings import Settings
from tests.vmoer.metrics.test_metrics_bootstrap import calibrated_world
from vmoer.metrics import calibration_metrics, paired_comparison

STABILITY, _, CALIBRATION, OOD = CLAIMS


@pytest.mark.parametrize(
    ("low", "high", "claim", "word"),
    [
        (0.10, 0.50, STABILITY, "reproduced"),
        (0.40, 0.60, STABILITY, "reproduced"),  # larger than claimed
        (0.05, 0.30, STABILITY, "not reproduced"),  # the right side, too small
        (-0.01, 0.30, STABILITY, "not reproduced"),  # zero is inside, the claim is not
        (-0.01, 0.50, STABILITY, "cannot judge"),  # both are
        (-0.50, -0.10, STABILITY, "inverted"),
        (-0.98, -0.60, CALIBRATION, "reproduced"),
        (-0.80, -0.60, CALIBRATION, "not reproduced"),
        (-0.97, 0.02, CALIBRATION, "cannot judge"),
        (0.05, 0.40, CALIBRATION, "inverted"),
        (None, None, CALIBRATION, "cannot judge"),
    ],
)
def test_verdict_follows_the_interval(low: float | None, high: float | None, claim: Claim, word: str) -> None:
    middle = 0.0 if low is None or high is None else (low + high) / 2
    most = 1.0 if claim.size > 0 else -1.0
    assert judge(Change(middle, low, high, 100, most), claim)[0] == word


def test_what_cannot_be_judged_says_why() -> None:
    open_ = Change(0.2, -0.1, 0.5, 100, 1.0)
    assert open_.shown == pytest.approx(0.3 * 2.8 / 1.96)
    assert judge(open_, STABILITY) == ("cannot judge", "n = 100 would show a change of 43 % or more")
    clear = Change(0.4, 0.3, 0.5, 100, 1.0)
    assert judge(clear, STABILITY, learned=True)[0] == judge(clear, STABILITY)[0] == "reproduced"
    assert judge(clear, STABILITY, learned=False) == ("cannot judge", "the posterior has not left its prior")
    near = Change(0.1, 0.05, 0.15, 100, 0.29)
    assert judge(near, STABILITY) == ("cannot judge", "from this baseline no method can do better than +29 %")
    assert "than chance shows" in judge(Change(-0.5, -1.0, 0.2, 100, -1.0), CALIBRATION, at_chance=True)[1]


@pytest.mark.parametrize(("n", "factor"), [(400, 1.15), (500, 2.0)])
def test_a_method_that_calibrates_perfectly_is_hardly_ever_called_not_reproduced(n: int, factor: float) -> None:
    """At a small true error nobody can judge, at a large one it is reproduced; by simulation of 60 worlds each."""
    words: list[str] = []
    for seed in range(60):
        calibrated, sharp, answers = calibrated_world(n, seed, factor)
        options = {"n_resamples": 200, "seed": seed}
        row = next(row for row in paired_comparison(calibrated, sharp, answers, **options) if row.metric == "ece")
        own = next(row for row in calibration_metrics(sharp, answers, **options) if row.metric == "ece")
        assert own.value is not None
        change = relative_change(CALIBRATION, row.difference, row.ci_low, row.ci_high, own.value, n)
        assert change is not None
        words.append(judge(change, CALIBRATION, at_chance=own.ci_low is None or own.ci_low <= 0)[0])
    assert words.count("not reproduced") <= 5
    assert words.count("inverted") == 0
    assert words.count("cannot judge" if factor < 2 else "reproduced") >= 45


@pytest.mark.parametrize(
    ("word", "matched", "after"),
    [
        ("reproduced", Matched(0.8, 0.7, 100), "reproduced"),
        ("reproduced", Matched(0.579, 0.672, 114), "not reproduced"),
        ("reproduced", Matched(0.7, 0.7, 100), "not reproduced"),
        ("reproduced", None, "cannot judge"),
        ("inverted", Matched(0.8, 0.7, 100), "inverted"),
        ("not reproduced", Matched(0.8, 0.7, 100), "not reproduced"),
    ],
)
def test_what_length_alone_may_explain_is_not_reproduced(word: Word, matched: Matched | None, after: str) -> None:
    assert confirmed(word, matched) == after


def test_change_is_relative_to_a_positive_baseline_and_within_what_is_possible() -> None:
    found = relative_change(CALIBRATION, -0.2, -0.3, -0.1, 0.4, 50)
    assert found == Change(-0.5, pytest.approx(-0.75), pytest.approx(-0.25), 50, -1.0)
    assert relative_change(CALIBRATION, -0.2, -0.3, -0.1, 0.0, 50) is None
    assert relative_change(CALIBRATION, 0.1, None, None, 0.5, 9) == Change(0.2, None, None, 9, -1.0)
    wide = relative_change(CALIBRATION, -0.2, -0.6, 0.7, 0.4, 50)
    assert wide is not None
    assert (wide.low, wide.high) == (-1.0, pytest.approx(1.75)), "an error does not fall by more than all of it"
    near = relative_change(STABILITY, 0.05, -0.1, 0.3, 0.8, 50)
    assert near is not None
    assert (near.high, near.most) == (pytest.approx(0.25), pytest.approx(0.25)), "a Jaccard index ends at 1"


def test_a_claim_holds_overall_only_where_it_holds_everywhere() -> None:
    assert overall(["reproduced", "reproduced"]) == "reproduced"
    assert overall(["inverted", "inverted"]) == "inverted"
    assert overall(["reproduced", "inverted"]) == "not reproduced"
    assert overall(["reproduced", "cannot judge"]) == "reproduced"
    assert overall(["cannot judge"]) == "cannot judge"
    assert overall([]) is None
    assert flops_verdict(0.009) == "reproduced"
    assert flops_verdict(0.011) == "not reproduced"


class FakeStore:
    """Summaries of two runs on one set, as the queries return them: the numbers are chosen, the code is real."""

    def __init__(
        self,
        differences: dict[str, tuple[float, float, float]],
        training: Sequence[tuple[str, int, int, str, float]] = (),
    ) -> None:
        self.differences = differences
        self.training = training

    def query(self, sql: str, parameters: object = None) -> pd.DataFrame:
        if "FROM runs" in sql:
            return pd.DataFrame([self._run("deterministic", "none"), self._run("fcvr", "in-router")])
        if "FROM datasets" in sql:
            rows = [("test", "in-distribution"), ("far", "far-ood")]
            return pd.DataFrame([{"experiment": "x", "dataset": name, "role": role} for name, role in rows])
        if "FROM comparisons" in sql:
            return pd.DataFrame(
                [
                    {
                        "run_id": "fcvr",
                        "baseline_run_id": "deterministic",
                        "dataset": "far" if claim.metric == "auroc" else "test",
                        "metric": claim.metric,
                        "score": claim.score,
                        "difference": self.differences[claim.name.partition(",")[0]][0],
                        "ci_low": self.differences[claim.name.partition(",")[0]][1],
                        "ci_high": self.differences[claim.name.partition(",")[0]][2],
                        "n": 100,
                    }
                    for claim in CLAIMS
                ]
            )
        if "FROM metrics" in sql:
            values = [
                ("deterministic", "test", "ece", "", 0.25),
                ("deterministic", "far", "auroc", "answer_entropy", 0.6),
                ("deterministic", "far", "auroc", "answer_entropy (length-matched)", 0.6),
                ("fcvr", "far", "auroc", "logit_variance (length-matched)", 0.65),
            ]
            return pd.DataFrame(
                [
                    {"run_id": run, "dataset": where, "metric": metric, "score": score, "value": value}
                    | {"position_rule": "answer", "n": 100, "ci_low": 0.1}
                    for run, where, metric, score, value in values
                ]
            )
        if "stability_examples" in sql:
            return pd.DataFrame(
                [
                    {"run_id": "deterministic", "mode": "router", "gamma": gamma, "jaccard": 0.5, "questions": 24}
                    for gamma in (0.01, 0.05)
                ]
            )
        if "FROM training_log" in sql:
            return pd.DataFrame(self.training, columns=["run_id", "step", "layer", "quantity", "value"])
        return pd.DataFrame({"run_id": [], "quantity": [], "ratio": []})

    @staticmethod
    def _run(method: str, estimator: str) -> dict[str, object]:
        manifest = '{"base": {"base": "pretrained", "adapter_sha256": null}}'
        return {
            "run_id": method,
            "name": "thesis-quick.main.made-up",
            "model": "m",
            "status": "finished",
            "method": method,
            "estimator": estimator,
            "control": "none",
            "experiment": "x",
            "manifest": manifest,
        }


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        (
            {"stability": (0.2, 0.1, 0.3), "calibration": (-0.23, -0.24, -0.2), "ood": (0.08, 0.02, 0.14)},
            ["reproduced"] * 4,
        ),
        (
            {"stability": (0.01, -0.01, 0.03), "calibration": (-0.1, -0.15, -0.05), "ood": (0.01, 0.001, 0.02)},
            ["not reproduced"] * 4,
        ),
        (
            {"stability": (-0.1, -0.2, -0.05), "calibration": (0.1, 0.05, 0.15), "ood": (-0.2, -0.3, -0.1)},
            ["inverted"] * 4,
        ),
    ],
)
def test_summaries_become_verdicts(differences: dict[str, tuple[float, float, float]], words: list[str]) -> None:
    results = Results(FakeStore(differences), "thesis-quick", "m")  # type: ignore[arg-type]
    found = results.findings()
    assert [one.claim for one in found] == list(CLAIMS)
    assert [one.word for one in found] == words
    assert found[0].change.relative == pytest.approx(differences["stability"][0] / 0.5)
    assert found[2].value == pytest.approx(0.25 + differences["calibration"][0])


def test_a_posterior_that_is_its_prior_or_kept_its_first_weights_is_not_judged() -> None:
    """From a training log alone, as archived runs have it: the KL where the kept weights were logged."""
    clear = {"stability": (0.2, 0.1, 0.3), "calibration": (-0.23, -0.24, -0.2), "ood": (0.08, 0.02, 0.14)}

    def words(*log: tuple[int, int, str, float]) -> set[str]:
        store = FakeStore(clear, [("fcvr", *row) for row in log])
        return {one.word for one in Results(store, "thesis-quick", "m").findings()}  # type: ignore[arg-type]

    checks = [(0, -1, "validation_nll", 1.0), (20, -1, "validation_nll", 0.9), (40, -1, "validation_nll", 1.2)]
    assert words(*checks, (20, 0, "kl", 0.2), (40, 0, "kl", 0.01)) == {"reproduced"}
    assert words(*checks, (20, 0, "kl", 0.01), (40, 0, "kl", 0.2)) == {"cannot judge"}
    assert words(*checks, (20, 0, "kl", 0.01), (20, 1, "kl", 0.3)) == {"reproduced"}
    assert words(*checks[:1], (40, -1, "validation_nll", 1.2), (40, 0, "kl", 2.0)) == {"cannot judge"}
    assert words(*checks, (0, -1, "kept_step", 0.0), (20, 0, "kl", 2.0)) == {"cannot judge"}


CONTROLS = ("untrained", "prior-covariance", "non-routing-noise", "moe-noise")


def against(control: str, *won: str, questions: str = "sciq", method: str = "fcvr") -> Duel:
    return Duel(questions, "averaged", pd.Series({"method": method, "control": control}), [], won)


def test_a_configuration_has_to_beat_everything_on_two_sets() -> None:
    base = against("none", "as it comes", "scaled", method="deterministic")
    controls = [against(name, "scaled") for name in CONTROLS]
    assert holds([base, *controls])
    assert holds([base, *controls, against("map-routers", method="deterministic")])  # shown, not required
    assert not holds([base, *controls[:-1]])
    assert not holds([base, *controls[1:]])
    assert not holds([base, *controls[:-1], against("moe-noise")])
    assert not holds([against("none", "scaled", method="deterministic"), *controls])
    other = [
        Duel("obqa", one.configuration, one.opponent, [], one.won if one is not controls[0] else ())
        for one in (base, *controls)
    ]
    assert outcome([base, *controls, *other]) == ("not found", "averaged on 1 of 2 sets; in NLL alone: none")
    other = [Duel("obqa", one.configuration, one.opponent, [], one.won) for one in (base, *controls)]
    assert outcome([base, *controls, *other]) == ("found", "averaged on 2 of 2 sets")
    assert outcome([]) is None


def test_a_posterior_that_has_not_learned_never_counts() -> None:
    won = [against("none", "as it comes", "scaled", method="deterministic")]
    won += [against(name, "scaled") for name in CONTROLS]
    assert holds([replace(one, learned=True) for one in won])
    assert not holds([replace(one, learned=False) for one in won])


def test_what_lowers_the_nll_alone_is_told_and_does_not_count() -> None:
    found = [
        Duel("sciq", "mcdr", pd.Series({"method": method, "control": control}), [], (), ("as it comes", "scaled"))
        for method, control in (
            ("deterministic", "none"),
            *(("mcdr", name) for name in CONTROLS if name != "prior-covariance"),
        )
    ]
    assert not holds(found)
    assert holds(found, nll_alone=True)
    assert outcome(found) == ("not found", "mcdr on 0 of 1 set; in NLL alone: mcdr on 1 of 1 set")
    assert not holds(found[:-1], nll_alone=True)


def test_absent_question_sets_are_said_and_left_out(tmp_path: Path) -> None:
    suite = load_suite("thesis", Settings())
    found, absent = present_sets(suite, None, tmp_path)
    assert found == ["worldfacts"]
    assert len(absent) == len(suite.sets) - 1
    assert f"sciq is left out: no sciq_test.parquet in {tmp_path}" in absent
    with pytest.raises(SpecError, match="no question set 'sciqq' in suite thesis; there are worldfacts, sciq"):
        present_sets(suite, ["sciqq"], None)
    with pytest.raises(SpecError, match="no suite 'theses'; there are thesis"):
        load_suite("theses", Settings())


def test_forms_plan_main_first_and_share_what_is_trained() -> None:
    suite = load_suite("thesis", Settings())
    planned, _ = plan(suite, "quick", "worldfacts-moe", ["worldfacts"])
    assert [item.experiment for item in planned] == ["main", "predictive"]
    assert planned[0].spec.name == "thesis-quick.main.worldfacts"
    assert planned[0].spec.data.id.limit == 100
    full, said = plan(suite, "full", "worldfacts-moe", ["worldfacts", "sciq"], questions=30)
    assert {item.questions for item in full} == {"worldfacts", "sciq"}
    assert full[0].spec.data.id.limit == 30
    assert full[0].spec.adapter is not None
    assert full[0].spec.base == "pretrained"
    by_name = {(item.experiment, item.questions): item.spec for item in full}
    sampling, training = by_name["sampling-seed-1", "sciq"], by_name["training-seed-1", "sciq"]
    assert sampling.seed == 1
    assert sampling.routers.train is not None
    assert training.routers.train is not None
    assert (sampling.routers.train.sampling_seed, training.routers.train.sampling_seed) == (0, 1)
    assert all("left out" in sentence for sentence in said)
    with pytest.raises(SpecError, match="no form 'fast' in suite thesis; there are quick, laptop, gpu, full"):
        plan(suite, "fast", "worldfacts-moe", ["worldfacts"])
    small, _ = plan(suite, "laptop", "worldfacts-moe", ["worldfacts"])
    assert small[0].spec.adapter is not None
    assert (small[0].spec.adapter.rank, small[0].spec.adapter.train is not None) == (4, True)


def test_skipped_questions_are_those_that_a_limit_takes() -> None:
    from pipelines.data.questions import load_questions
    from pipelines.spec.sections import DataSource

    def ids(**values: int) -> list[str]:
        return list(load_questions(DataSource(name="worldfacts", split="test", **values)).by_id())

    whole = ids(limit=10_000)
    assert ids(limit=30) + ids(skip=30, limit=20) == whole[:50]
    assert ids(skip=30) == whole[30:]
    with pytest.raises(DataError, match=f"it has {len(whole)} questions; `skip: {len(whole)}` leaves none"):
        ids(skip=len(whole))


def test_a_search_is_confirmed_with_the_same_weights_on_other_questions() -> None:
    suite = load_suite("thesis", Settings())
    planned, _ = plan(suite, "laptop", "smollm2-moe", ["sciq"], only=["search-mcdr-choice", "search-mcdr-choice-fresh"])
    search, fresh = (item.spec for item in planned)
    assert (search.data.id.skip, search.data.id.limit) == (None, 300)
    assert (fresh.data.id.skip, fresh.data.id.limit) == (300, 700)
    assert (search.routers, search.layers, search.samples) == (fresh.routers, fresh.layers, fresh.samples)
    assert (search.adapter, search.data.validation) == (fresh.adapter, fresh.data.validation)


def test_tenths_split_a_set_without_overlap() -> None:
    from pipelines.data.questions import load_questions
    from pipelines.spec.sections import DataSource

    parts = [
        load_questions(DataSource(name="worldfacts", split="test", tenths=bounds)).by_id().keys()
        for bounds in ([0, 5], [5, 6], [6, 10])
    ]
    whole = load_questions(DataSource(name="worldfacts", split="test")).by_id().keys()
    assert sum(map(len, parts)) == len(whole)
    assert set().union(*parts) == set(whole)
    assert 0.4 < len(parts[0]) / len(whole) < 0.6
