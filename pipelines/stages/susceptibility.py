"""How stable each layer's routing is under noise on the router's input: tables ``layer_susceptibility``,
``stability_examples``, ``comparisons`` and ``noise_floor``.

Measured for the deterministic models and for in-router Bayesian runs: whether routing got steadier is a comparison.
The first deterministic run also holds the numeric noise floor of the native model, if that is small enough to copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.session.batching import encode_batches
from pipelines.session.inputs import tokens_about
from pipelines.session.session import Session
from pipelines.spec.runs import RunPlan
from pipelines.stages import Batch, Columns, columns
from pipelines.stages.leverage import bayesian_layers
from store.run_tables import RunTables
from vmoer.measure import noise_floor
from vmoer.measure.susceptibility import measure
from vmoer.metrics import layer_stability, numeric_stability, paired_difference

TABLES = ("layer_susceptibility", "stability_examples")

#: parameters of the largest model whose noise floor a run measures by itself; `vmoer noise-floor` measures any
FLOOR_PARAMETERS = 500_000_000


def applies(run: RunPlan) -> bool:
    return run.deterministic or (run.control == "none" and run.estimator != "predictive")


def plan(session: Session, run: RunPlan) -> list[Batch]:
    noise = session.spec.noise
    tokens = sum(map(tokens_about, session.inputs.in_distribution.questions[: noise.limit]))
    passes = {"router": 2, "redrawn": 2, "propagated": 2 + len(noise.gammas)}
    return [Batch(mode, tokens * passes[mode], {"mode": mode}) for mode in noise.modes]


def compute(session: Session, run: RunPlan, batch: Batch) -> Mapping[str, Columns]:
    resident, spec = session.resident, session.spec
    session.apply(run)
    batches = encode_batches(session.inputs, resident, spec.noise.limit, session.inputs.in_distribution.name)
    mode = batch.payload["mode"]
    found = measure(resident.model, batches, spec.noise.gammas, mode, seed=spec.seed)
    rows, examples = [], []
    ids = [question.id for question in session.inputs.in_distribution.questions[: spec.noise.limit]]
    chosen = [found.layers.index(layer) for layer in bayesian_layers(session, run)]
    for level, gamma in enumerate(found.gammas):
        owned = np.bincount(found.example)
        means = np.bincount(found.example, weights=found.token_jaccard[level, chosen].mean(0)) / owned
        examples += [
            {"mode": mode, "gamma": gamma, "example_id": example, "jaccard": float(mean), "n": int(n)}
            for example, mean, n in zip(ids, means, owned, strict=True)
        ]
        for place, site in enumerate(resident.sites):
            stability = layer_stability(
                found.token_jaccard[level, place],
                found.example,
                site.top_k,
                site.n_experts,
                n_resamples=spec.bootstrap,
                seed=spec.seed,
            )
            rows.append({"mode": mode, "gamma": gamma, "layer": site.layer, **stability})
    return {"layer_susceptibility": columns(rows), "stability_examples": columns(examples)}


def summarise(session: Session, run: RunPlan) -> Mapping[str, Columns]:
    """Differences of the mean Jaccard index, paired by question; the noise floor of the native model."""
    spec, mine, rows = session.spec, _by_level(session, run.run_id), []
    for other in run.compare_with:
        theirs = _by_level(session, other)
        for (mode, gamma), ours in mine.items():
            baseline = theirs.get((mode, gamma), {})
            shared = sorted(set(ours) & set(baseline))
            if not shared:
                continue
            sides = [[np.array([side[example][k] for example in shared]) for k in (0, 1)] for side in (ours, baseline)]
            found = paired_difference(_mean, *sides, n_resamples=spec.bootstrap, seed=spec.seed)
            difference = _mean(*sides[0]) - _mean(*sides[1])
            row = {"metric": "jaccard", "score": f"{mode} {gamma:g}", "difference": float(difference)}
            interval = {"ci_low": found.low, "ci_high": found.high, "n": len(shared), "direction": "higher"}
            rows.append({"baseline_run_id": other, "dataset": session.inputs.in_distribution.name, **row, **interval})
    summary = {"comparisons": columns(rows)}
    resident = session.resident
    if run.deterministic and run.control == "none" and resident.identity["n_parameters"] <= FLOOR_PARAMETERS:
        batches = encode_batches(session.inputs, resident, spec.noise.limit, session.inputs.in_distribution.name)
        with resident.native() as model:
            floors = noise_floor.measure(model, batches)
        summary["noise_floor"] = columns(floor_rows(floors, spec.bootstrap, spec.seed))
    return summary


def floor_rows(floors: list[noise_floor.NoiseFloor], n_resamples: int, seed: int) -> list[dict[str, Any]]:
    """Rows of table ``noise_floor``, one per comparison and layer."""
    return [
        {
            "comparison": floor.comparison,
            "layer": layer,
            **numeric_stability(floor.token_jaccard[place], floor.example, n_resamples, seed),
        }
        for floor in floors
        for place, layer in enumerate(floor.layers)
    ]


def _mean(jaccard: NDArray[Any], tokens: NDArray[Any]) -> NDArray[Any]:
    """Mean over tokens of questions ``[…, questions]``."""
    return (jaccard * tokens).sum(-1) / tokens.sum(-1)


def _by_level(session: Session, run_id: str) -> dict[tuple[str, float], dict[str, tuple[float, int]]]:
    """(mode, γ) → question → its mean Jaccard index and number of tokens."""
    found: dict[tuple[str, float], dict[str, tuple[float, int]]] = {}
    for row in RunTables(session.home, run_id).table("stability_examples").to_pylist():
        found.setdefault((row["mode"], row["gamma"]), {})[row["example_id"]] = (row["jaccard"], row["n"])
    return found
