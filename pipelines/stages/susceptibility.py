"""How stable each layer's routing is under noise on the router's input: table ``layer_susceptibility``.

Measured for the native model and for in-router Bayesian runs: whether routing got steadier is a comparison of the two.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.context import Context, columns, tokens_about
from pipelines.routing import encode_batches
from pipelines.runs import RunPlan
from pipelines.stages import Batch, Columns
from vmoer.metrics import layer_stability
from vmoer.susceptibility import measure

TABLES = ("layer_susceptibility",)


def applies(run: RunPlan) -> bool:
    return run.control == "none" and run.estimator != "predictive"


def plan(context: Context, run: RunPlan) -> list[Batch]:
    noise = context.spec.noise
    tokens = sum(map(tokens_about, context.in_distribution.questions[: noise.limit]))
    passes = {"router": 2, "propagated": 2 + len(noise.gammas)}
    return [Batch(mode, tokens * passes[mode], {"mode": mode}) for mode in noise.modes]


def compute(context: Context, run: RunPlan, batch: Batch) -> Mapping[str, Columns]:
    resident, spec = context.resident, context.spec
    resident.applied(context, run)
    batches = encode_batches(context, resident, spec.noise.limit, context.in_distribution.name)
    mode = batch.payload["mode"]
    found = measure(resident.model, batches, spec.noise.gammas, mode, seed=spec.seed)
    rows = []
    for level, gamma in enumerate(found.gammas):
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
    return {"layer_susceptibility": columns(rows)}


def summarise(context: Context, run: RunPlan) -> Mapping[str, Columns]:
    return {}
