"""The chips of the list of runs say what the stored intervals say, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from app.shared.runs import posterior
from app.views.overview import run_chips as verdicts

FCVR = {"method": "fcvr", "control": "none"}


def answers(*rows: tuple[str, float, float, str]) -> dict[str, dict[str, Any]]:
    return {metric: {"ci_low": low, "ci_high": high, "direction": better} for metric, low, high, better in rows}


def test_better_and_worse_follow_the_direction_of_the_metric() -> None:
    given = answers(("ece", -0.2, -0.1, "lower"), ("nll", 0.1, 0.2, "lower"), ("accuracy", -0.1, 0.1, "higher"))
    assert verdicts.chips(FCVR, given, False) == ["accuracy ● same", "ECE ▲ better", "NLL ▼ worse"]


def test_without_a_stored_difference_a_run_is_not_compared() -> None:
    assert verdicts.chips(FCVR, {}, False) == [verdicts.NOT_COMPARED]


def test_the_baseline_and_controls_are_called_so() -> None:
    assert verdicts.chips({"method": "deterministic", "control": "none"}, {}, False) == [verdicts.BASELINE]
    assert verdicts.chips({"method": "fcvr", "control": "untrained"}, {}, False)[0] == verdicts.CONTROL
    assert verdicts.chips(FCVR, {}, False, learned=False) == [verdicts.NOT_LEARNED, verdicts.NOT_COMPARED]
    assert verdicts.NOT_LEARNED not in verdicts.chips(FCVR, {}, False, learned=True) + verdicts.chips(FCVR, {}, False)


def test_what_a_card_says_of_a_posterior_is_found_and_its_absence_too() -> None:
    card = {"routing": {"posterior": {"learned": False, "why": "it is its prior", "layers": []}}}
    assert posterior({"manifest": json.dumps(card)})["learned"] is False
    for manifest in (None, "", json.dumps({"routing": {}}), json.dumps({"routing": None, "x": "posterior"})):
        assert posterior({"manifest": manifest}) == {}


@pytest.mark.parametrize(("status", "first"), [("failed", "failed"), ("running", "running"), ("finished", "baseline")])
def test_a_run_that_has_not_finished_says_so_first(status: str, first: str) -> None:
    run = {"method": "deterministic", "control": "none", "status": status}
    found = verdicts.chips(run, {}, False)
    assert found[0] == first
    assert set(found) <= set(verdicts.CHIPS)


@pytest.mark.parametrize(
    ("aggregation", "high", "inverted"), [("mean_layers", 0.4, True), ("mean_layers", 0.6, False), ("none", 0.4, False)]
)
def test_only_a_routing_score_wholly_below_chance_is_inverted(aggregation: str, high: float, inverted: bool) -> None:
    auroc = pd.DataFrame({"run_id": ["r"], "aggregation": [aggregation], "ci_high": [high]})
    assert ("r" in verdicts.inverted(auroc)) is inverted
    assert (verdicts.INVERTED in verdicts.chips(FCVR, {}, inverted)) is inverted


def test_every_chip_has_a_colour_and_says_itself_without_it() -> None:
    assert len(set(verdicts.CHIPS)) == len(verdicts.CHIPS)
    assert all(any(sign in chip for sign in "▲▼●✕") or chip.isascii() for chip in verdicts.CHIPS)
