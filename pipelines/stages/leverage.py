"""What uniformly random routing costs, layer by layer and together: table ``layer_leverage``.

A property of the native model, so only the deterministic run has it. Scope ``chosen`` is every layer that carries a
Bayesian router in this experiment, all at once; beside it the same layers with their blocks' output removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.session.inputs import tokens_about
from pipelines.session.scoring import score
from pipelines.session.session import Session
from pipelines.spec.runs import RunPlan
from pipelines.stages import Batch, Columns, columns
from vmoer.measure.leverage import LeverageResult, measure
from vmoer.metrics import interval

TABLES = ("layer_leverage",)


def applies(run: RunPlan) -> bool:
    return run.deterministic and run.control == "none"


def plan(session: Session, run: RunPlan) -> list[Batch]:
    resident, spec = session.resident, session.spec
    questions = session.inputs.in_distribution.questions[: spec.leverage.limit]
    tokens = sum(map(tokens_about, questions))
    chosen = sorted({layer for method in bayesian(session) for layer in session.layers_of(method)})
    cases = [("layer", [layer]) for layer in resident.moe_layers] + [("all", resident.moe_layers)]
    if chosen and chosen != resident.moe_layers:
        cases.append(("chosen", chosen))
    kinds = ["random-routing"] + (["zero-block"] if spec.leverage.zero_block else [])
    return [
        Batch(
            f"{kind}/{scope}/{layers[0] if scope == 'layer' else ''}",
            tokens * (spec.leverage.draws if kind == "random-routing" else 1),
            {"intervention": kind, "scope": scope, "layers": list(layers)},
        )
        for kind in kinds
        for scope, layers in cases
    ]


def bayesian(session: Session) -> list[str]:
    """The methods of the experiment that put a posterior on the router."""
    return [method for method in session.spec.methods if method != "deterministic"]


def bayesian_layers(session: Session, run: RunPlan) -> list[int]:
    """The layers with Bayesian routers: the run's own, or all of the experiment's for a deterministic run."""
    resident = session.resident
    methods = bayesian(session) if run.deterministic else [run.method]
    found = sorted({layer for method in methods for layer in session.layers_of(method)})
    return found or resident.moe_layers


def compute(session: Session, run: RunPlan, batch: Batch) -> Mapping[str, Columns]:
    layers, kind = batch.payload["layers"], batch.payload["intervention"]
    reference = session.remember("leverage reference", lambda: _measure(session, [], kind))
    found = _measure(session, layers, kind)
    spec = session.spec
    accuracy, accuracy_low, accuracy_high = _change(found.correct, reference.correct, spec.bootstrap, spec.seed)
    nll, nll_low, nll_high = _change(found.nll, reference.nll, spec.bootstrap, spec.seed)
    scope = batch.payload["scope"]
    row = {
        "intervention": kind,
        "scope": scope,
        "layer": layers[0] if scope == "layer" else -1,
        "accuracy": float(found.correct.mean()),
        "accuracy_change": accuracy,
        "accuracy_ci_low": accuracy_low,
        "accuracy_ci_high": accuracy_high,
        "nll_change": nll,
        "nll_ci_low": nll_low,
        "nll_ci_high": nll_high,
        "draws": found.correct.shape[0],
        "n": found.correct.shape[1],
    }
    return {"layer_leverage": columns([row])}


def summarise(session: Session, run: RunPlan) -> Mapping[str, Columns]:
    return {}


def _measure(session: Session, layers: list[int], kind: Any) -> LeverageResult:
    spec = session.spec
    questions = session.inputs.in_distribution.questions[: spec.leverage.limit]
    with session.native() as model:
        return measure(
            model,
            lambda: score(session, questions),
            [question.answer for question in questions],
            layers,
            kind,
            draws=spec.leverage.draws,
            seed=spec.seed,
        )


def _change(
    disturbed: NDArray[np.float64], reference: NDArray[np.float64], resamples: int, seed: int
) -> tuple[float, float, float]:
    """Mean change per question and its paired 95 % interval; where nothing varies, the interval is the value."""
    change = disturbed.mean(0) - reference.mean(0)
    value = float(change.mean())
    found = interval(lambda rows: rows.mean(axis=-1), change, n_resamples=resamples, seed=seed)
    if found.low is None or found.high is None:
        return value, value, value
    return value, found.low, found.high
