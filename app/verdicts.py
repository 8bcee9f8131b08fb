"""What a run's stored comparisons say about it in a few words, for the chips of the list of runs; no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from app.pairs import verdict
from app.runs import records

NAMES = {"accuracy": "accuracy", "ece": "ECE", "nll": "NLL"}
OUTCOMES = {"second run better": "▲ better", "second run worse": "▼ worse", "no clear difference": "● same"}
BASELINE, CONTROL, ALONE, INVERTED = "baseline", "control", "not compared", "✕ OoD inverted"
#: the states of a run whose numbers are partial
PARTIAL = {"queued": "gray", "running": "blue", "failed": "red", "cancelled": "orange"}
_COLOURS = {"▲ better": "green", "▼ worse": "orange", "● same": "gray"}
#: every chip there is, and its colour; a sign and a word say the same, so that colour is never needed
CHIPS: dict[str, str] = {
    **PARTIAL,
    BASELINE: "blue",
    CONTROL: "violet",
    ALONE: "gray",
    INVERTED: "red",
    **{f"{name} {said}": _COLOURS[said] for name in NAMES.values() for said in OUTCOMES.values()},
}


def chips(run: Mapping[str, Any], dataset: str, comparisons: pd.DataFrame, auroc: pd.DataFrame) -> list[str]:
    """The verdicts on a run: its state where it has not finished, what it is, then its answers to ``dataset`` against
    the baseline: accuracy, ECE, NLL.

    ``comparisons`` are the run's paired differences from its deterministic run. ``auroc`` are the run's AUROC rows;
    a score of the routing whose whole interval lies below 0.5 on some OoD set makes the run *inverted*.
    """
    found = [str(run["status"])] if run.get("status") in PARTIAL else []
    if run["method"] == "deterministic" and run["control"] == "none":
        found.append(BASELINE)
    elif run["control"] != "none":
        found.append(CONTROL)
    routing = auroc[auroc["aggregation"] != "none"]
    if (routing["ci_high"] < 0.5).any():
        found.append(INVERTED)
    here = comparisons[(comparisons["dataset"] == dataset) & (comparisons["score"] == "")]
    rows = {row["metric"]: row for row in records(here)}
    for metric, name in NAMES.items():
        if metric in rows:
            row = rows[metric]
            found.append(f"{name} {OUTCOMES[verdict(row['ci_low'], row['ci_high'], row['direction'])]}")
    if not rows and BASELINE not in found:
        found.append(ALONE)
    return found
