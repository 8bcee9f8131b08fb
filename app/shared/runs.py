"""What pages need to know about runs: how to call them, which belong together, which one to show first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from store.archive import SUFFIX
from vmoer.methods import rank

CONTROLS = {
    "untrained": "untrained heads",
    "beta-zero": "β = 0",
    "own-mean": "own mean, no noise",
    "prior-covariance": "own mean + prior covariance",
    "non-routing-noise": "non-routing noise",
    "moe-noise": "noise on the MoE output",
    "unadapted": "model as loaded",
    "pretrained-routers": "pretrained routers",
    "map-routers": "MAP routers",
}


def posterior(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's manifest says of its trained posterior (:mod:`vmoer.measure.learned`); else empty."""
    card = run.get("manifest")
    if not isinstance(card, str) or '"posterior"' not in card:
        return {}
    return dict((json.loads(card).get("routing") or {}).get("posterior") or {})


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


def baseline_names(family: list[dict[str, Any]]) -> list[str]:
    """The runs of one experiment as baselines: a control by its own words alone where no other run has that control."""
    short = [CONTROLS.get(run["control"], describe(run)) for run in family]
    return [name if short.count(name) == 1 else describe(run) for name, run in zip(short, family, strict=True)]


def labels(runs: pd.DataFrame) -> dict[str, str]:
    """A readable name per run id, no two the same: a list of choices knows an entry by its name alone.

    Runs that would be called the same also show the name of their spec and, where that does not help, the end of
    their id.
    """
    rows = {str(row["run_id"]): row for row in records(runs)}
    names = {run_id: f"{row['model']} · {describe(row)}" for run_id, row in rows.items()}
    specs = {run_id: str(row["name"]).partition(" (archived ")[0] for run_id, row in rows.items()}
    for more in (specs, {run_id: _end(run_id) for run_id in rows}):
        alike: dict[str, list[str]] = {}
        for run_id, name in names.items():
            alike.setdefault(name, []).append(run_id)
        for name, run_ids in alike.items():
            if len({more[run_id] for run_id in run_ids}) > 1:
                names |= {run_id: f"{name} · {more[run_id]}" for run_id in run_ids}
    return names


def _end(run_id: str) -> str:
    """What tells a run from others of its method: the hash at the end of its id, and whether it is archived."""
    plain = run_id.removesuffix(SUFFIX)
    return plain.rsplit(".", 1)[-1] + (" archived" if plain != run_id else "")


def ladder_order(runs: pd.DataFrame) -> pd.DataFrame:
    """``runs`` from the plain model upwards: deterministic, Bayesian, then controls, each by method and estimator."""
    keys = pd.DataFrame(
        {
            "control": (runs["control"] != "none").astype(int),
            "method": runs["method"].map(rank),
            "name": runs["method"],
            "estimator": runs["estimator"],
            "run_id": runs["run_id"],
        }
    )
    return runs.loc[keys.sort_values(["control", "method", "name", "estimator", "run_id"]).index]


def shown_first(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs in the order to look at them: the newest experiments computed here, then archives.

    A suite ends with its side experiments, so of archives the real models' largest experiments come first.
    """
    archived = runs["run_id"].str.endswith(SUFFIX)
    same = runs.assign(began=runs["started_at"].rank()).groupby("experiment")
    keys = runs[["experiment", "run_id"]].assign(
        archived=archived,
        toy=archived & runs["synthetic"].astype(bool),
        size=same["run_id"].transform("size").where(archived, 0),
        began=same["began"].transform("min"),
    )
    order = ["archived", "toy", "size", "began", "experiment", "run_id"]
    return runs.loc[keys.sort_values(order, ascending=[True, True, False, False, True, True]).index]


def default_run(runs: pd.DataFrame) -> str | None:
    """What to show first: of the first experiment with a finished run, the first estimator of ``fcvr``, the paper's
    method, or without it of the most elaborate one.

    Controls come last; without a finished run it is the first one; ``None`` where there is no run at all.
    """
    if runs.empty:
        return None
    finished = runs[runs["status"] == "finished"]
    candidates = finished if not finished.empty else runs
    first = shown_first(candidates).iloc[0]["experiment"]
    family = ladder_order(candidates[candidates["experiment"] == first])
    plain = family[family["control"] == "none"]
    family = plain if not plain.empty else family
    method = "fcvr" if (family["method"] == "fcvr").any() else family.iloc[-1]["method"]
    return str(family[family["method"] == method].iloc[0]["run_id"])


def siblings(runs: pd.DataFrame, run_id: str) -> pd.DataFrame:
    """All runs of the same experiment, ``run_id`` included, in ladder order."""
    experiment = runs.loc[runs["run_id"] == run_id, "experiment"].iloc[0]
    return ladder_order(runs[runs["experiment"] == experiment])


def baselines(runs: pd.DataFrame) -> dict[str, str]:
    """The plain deterministic run of each experiment that has one."""
    plain = ladder_order(runs[(runs["method"] == "deterministic") & (runs["control"] == "none")])
    first = plain.drop_duplicates("experiment")
    return dict(zip(first["experiment"].astype(str), first["run_id"].astype(str), strict=True))


def deterministic_of(runs: pd.DataFrame, run_id: str) -> str | None:
    """The plain deterministic run of the same experiment, or ``None``."""
    experiment = str(runs.loc[runs["run_id"] == run_id, "experiment"].iloc[0])
    return baselines(runs[runs["experiment"] == experiment]).get(experiment)


def as_list(value: Any) -> list[Any]:
    """A list column's cell as a list; empty for NULL."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return []
    return list(value.tolist() if hasattr(value, "tolist") else value)
