"""What pages need to know about runs: how to call them, which belong together, which one to show first."""

from __future__ import annotations

from typing import Any

import pandas as pd

CONTROLS = {"untrained": "untrained heads", "non-routing-noise": "non-routing noise"}
_LADDER = (
    "deterministic", "map", "temperature", "mcdr", "swagr", "der", "laplace", "mfvr", "fcvr-lowrank", "fcvr", "vtsr",
)  # fmt: skip


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of ``frame``, each a dict by column name."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict(orient="records")]


def describe(run: pd.Series | dict[str, Any]) -> str:
    """The run in words without its model: method, estimator, control."""
    parts = [str(run["method"])]
    if run["estimator"] != "none":
        parts.append(str(run["estimator"]))
    if run["control"] != "none":
        parts.append(CONTROLS.get(run["control"], str(run["control"])))
    return " · ".join(parts)


def labels(runs: pd.DataFrame) -> dict[str, str]:
    """A readable name per run id; runs that would be called the same also show the end of their id."""
    names = {row["run_id"]: f"{row['model']} · {describe(row)}" for row in records(runs)}
    counts = pd.Series(list(names.values())).value_counts()
    return {
        run_id: f"{name} · {run_id.rsplit('.', 1)[-1]}" if counts[name] > 1 else name for run_id, name in names.items()
    }


def ladder_order(runs: pd.DataFrame) -> pd.DataFrame:
    """``runs`` from the plain model upwards: deterministic, Bayesian, then controls, each by method and estimator."""
    keys = pd.DataFrame(
        {
            "control": (runs["control"] != "none").astype(int),
            "method": runs["method"].map(lambda method: _LADDER.index(method) if method in _LADDER else len(_LADDER)),
            "name": runs["method"],
            "estimator": runs["estimator"],
            "run_id": runs["run_id"],
        }
    )
    return runs.loc[keys.sort_values(["control", "method", "name", "estimator", "run_id"]).index]


def default_run(runs: pd.DataFrame) -> str | None:
    """What to show first: of the newest experiment with a finished run, the most elaborate method's first estimator.

    Controls come last; without a finished run it is the newest one; ``None`` where there is no run at all.
    """
    if runs.empty:
        return None
    finished = runs[runs["status"] == "finished"]
    candidates = finished if not finished.empty else runs
    newest = candidates.sort_values(["started_at", "run_id"], ascending=False).iloc[0]["experiment"]
    family = ladder_order(candidates[candidates["experiment"] == newest])
    plain = family[family["control"] == "none"]
    family = plain if not plain.empty else family
    return str(family[family["method"] == family.iloc[-1]["method"]].iloc[0]["run_id"])


def siblings(runs: pd.DataFrame, run_id: str) -> pd.DataFrame:
    """All runs of the same experiment, ``run_id`` included, in ladder order."""
    experiment = runs.loc[runs["run_id"] == run_id, "experiment"].iloc[0]
    return ladder_order(runs[runs["experiment"] == experiment])


def deterministic_of(runs: pd.DataFrame, run_id: str) -> str | None:
    """The plain deterministic run of the same experiment, or ``None``."""
    family = siblings(runs, run_id)
    found = family[(family["method"] == "deterministic") & (family["control"] == "none")]
    return None if found.empty else str(found.iloc[0]["run_id"])


def as_list(value: Any) -> list[Any]:
    """A list column's cell as a list; empty for NULL."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return []
    return list(value.tolist() if hasattr(value, "tolist") else value)
