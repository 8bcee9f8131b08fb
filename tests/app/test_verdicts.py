"""The chips of the list of runs say what the stored intervals say, and nothing else."""

from __future__ import annotations

import pandas as pd
import pytest

from app import verdicts

EMPTY = pd.DataFrame(columns=["aggregation", "ci_high"])
FCVR = {"method": "fcvr", "control": "none"}


def comparisons(*rows: tuple[str, float, float, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["metric", "ci_low", "ci_high", "direction"])
    return frame.assign(dataset="id", score="")


NONE = comparisons()


def test_better_and_worse_follow_the_direction_of_the_metric() -> None:
    found = verdicts.chips(
        FCVR,
        "id",
        comparisons(("ece", -0.2, -0.1, "lower"), ("nll", 0.1, 0.2, "lower"), ("accuracy", -0.1, 0.1, "higher")),
        EMPTY,
    )
    assert found == ["accuracy ● same", "ECE ▲ better", "NLL ▼ worse"]


def test_another_data_set_or_an_ood_score_says_nothing_about_the_answers() -> None:
    other = comparisons(("ece", -0.2, -0.1, "lower")).assign(dataset="far")
    scored = comparisons(("nll", -0.2, -0.1, "lower")).assign(score="gate_entropy")
    assert verdicts.chips(FCVR, "id", pd.concat([other, scored]), EMPTY) == [verdicts.ALONE]


def test_the_baseline_and_controls_are_called_so() -> None:
    assert verdicts.chips({"method": "deterministic", "control": "none"}, "id", NONE, EMPTY) == [verdicts.BASELINE]
    assert verdicts.chips({"method": "fcvr", "control": "untrained"}, "id", NONE, EMPTY)[0] == verdicts.CONTROL


@pytest.mark.parametrize(("status", "first"), [("failed", "failed"), ("running", "running"), ("finished", "baseline")])
def test_a_run_that_has_not_finished_says_so_first(status: str, first: str) -> None:
    run = {"method": "deterministic", "control": "none", "status": status}
    found = verdicts.chips(run, "id", NONE, EMPTY)
    assert found[0] == first
    assert set(found) <= set(verdicts.CHIPS)


@pytest.mark.parametrize(
    ("aggregation", "high", "inverted"), [("mean_layers", 0.4, True), ("mean_layers", 0.6, False), ("none", 0.4, False)]
)
def test_only_a_routing_score_wholly_below_chance_is_inverted(aggregation: str, high: float, inverted: bool) -> None:
    auroc = pd.DataFrame({"aggregation": [aggregation], "ci_high": [high]})
    assert (verdicts.INVERTED in verdicts.chips(FCVR, "id", NONE, auroc)) is inverted


def test_every_chip_has_a_colour_and_says_itself_without_it() -> None:
    assert len(set(verdicts.CHIPS)) == len(verdicts.CHIPS)
    assert all(any(sign in chip for sign in "▲▼●✕") or chip.isascii() for chip in verdicts.CHIPS)
