"""What a run's stored comparisons say about it in a few words, for the chips of the list of runs; no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from app.figures.verdict import BETTER, SIGNS, UNCLEAR, WORSE, verdict

NAMES = {"accuracy": "accuracy", "ece": "ECE", "nll": "NLL"}
_WORDS = {BETTER: "better", WORSE: "worse", UNCLEAR: "same"}
OUTCOMES = {value: f"{SIGNS[value]} {word}" for value, word in _WORDS.items()}
BASELINE, CONTROL, NOT_COMPARED, INVERTED = "baseline", "control", "not compared", "✕ OoD inverted"
NOT_LEARNED = "not learned"
#: the states of a run whose numbers are partial
PARTIAL = {"queued": "gray", "running": "blue", "failed": "red", "cancelled": "orange"}
_COLOURS = dict(zip(OUTCOMES.values(), ("green", "orange", "gray"), strict=True))
#: every chip there is, and its colour; a sign and a word say the same, so that colour is never needed
CHIPS: dict[str, str] = {
    **PARTIAL,
    BASELINE: "blue",
    CONTROL: "violet",
    NOT_COMPARED: "gray",
    NOT_LEARNED: "orange",
    INVERTED: "red",
    **{f"{name} {said}": _COLOURS[said] for name in NAMES.values() for said in OUTCOMES.values()},
}


def inverted(auroc: pd.DataFrame) -> set[str]:
    """The runs with a score of the routing whose whole interval lies below 0.5 on some OoD set, of rows of AUROC."""
    return set(auroc.loc[(auroc["aggregation"] != "none") & (auroc["ci_high"] < 0.5), "run_id"])


def chips(
    run: Mapping[str, Any],
    answers: Mapping[str, Mapping[str, Any]],
    below_chance: bool,
    learned: bool | None = None,
) -> list[str]:
    """The verdicts on a run: its state where it has not finished, what it is, then its answers against the baseline.

    ``answers`` are its paired differences from its deterministic run on one data set, by metric: accuracy, ECE, NLL.
    ``below_chance`` says that it is :func:`inverted`, ``learned`` whether its posterior has left its prior.
    """
    found = [str(run["status"])] if run.get("status") in PARTIAL else []
    if run["method"] == "deterministic" and run["control"] == "none":
        found.append(BASELINE)
    elif run["control"] != "none":
        found.append(CONTROL)
    if learned is False:
        found.append(NOT_LEARNED)
    if below_chance:
        found.append(INVERTED)
    for metric, name in NAMES.items():
        if metric in answers:
            row = answers[metric]
            found.append(f"{name} {OUTCOMES[verdict(row['ci_low'], row['ci_high'], row['direction'])]}")
    if not answers and BASELINE not in found:
        found.append(NOT_COMPARED)
    return found
