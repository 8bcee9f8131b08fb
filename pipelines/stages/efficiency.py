"""What a run costs beside the deterministic model on the same base, formula and clock: table ``efficiency``.

Times are processor time on a CPU, which waiting for a busy machine does not add to, and wall-clock time on a GPU. Both
sides are taken in turn within one step; they are the only numbers here that another machine would not repeat.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch

from pipelines.session.batching import encode_batches
from pipelines.session.model_input import tokens_of
from pipelines.session.session import Session
from pipelines.spec.runs import RunPlan
from pipelines.stages import Batch, Columns, columns
from vmoer.forward.modes import evaluation
from vmoer.measure.macs import UncountedError, counted, extra_parameters, model_macs, predictive_ratio
from vmoer.measure.measured_cost import counted_flops, decode_seconds, peak_bytes, prefill_seconds
from vmoer.routers.base import BayesianRouter

TABLES = ("efficiency",)

QUESTIONS = 8
ROUNDS = 3
DECODED = 8


def applies(run: RunPlan) -> bool:
    return run.control == "none" and not run.deterministic


def plan(session: Session, run: RunPlan) -> list[Batch]:
    return [Batch("all", QUESTIONS)]


def compute(session: Session, run: RunPlan, batch: Batch) -> Mapping[str, Columns]:
    resident = session.resident
    handle = session.apply(run).handle
    assert handle is not None
    prompts = encode_batches(session.inputs, resident, QUESTIONS, session.inputs.in_distribution.name)[0]
    rows = _formulas(session, run, handle.head(handle.layers[0]))
    predictive = run.estimator == "predictive"
    sampled: Any = (lambda: handle.one_draw()) if predictive else nullcontext
    passes = run.samples if predictive else 1
    with evaluation(resident.model), torch.inference_mode():
        with handle.deterministic():
            base_flops, base_bytes = counted_flops(resident.model, prompts), peak_bytes(resident.model, prompts)
        with sampled():
            flops, memory = counted_flops(resident.model, prompts), peak_bytes(resident.model, prompts)
        tokens = int(prompts["attention_mask"].sum())
        rows += [
            _row("flops_per_token", flops * passes / tokens, base_flops / tokens, "FLOPs"),
            _row("peak_bytes", memory, base_bytes, "bytes of tensors"),
        ]
        measured: dict[str, list[tuple[float, float]]] = {"prefill_seconds": [], "decode_seconds": []}
        for _ in range(ROUNDS):
            for name, clock in (("prefill_seconds", prefill_seconds), ("decode_seconds", _decode)):
                with handle.deterministic():
                    plain = clock(resident.model, prompts)
                with sampled():
                    measured[name].append((clock(resident.model, prompts) * passes, plain))
    for name, pairs in measured.items():
        ours, plain = (statistics.median(side) for side in zip(*pairs, strict=True))
        rows.append(_row(name, ours, plain, "processor seconds" if resident.device_name == "cpu" else "seconds"))
    return {"efficiency": columns(rows)}


def _formulas(session: Session, run: RunPlan, head: BayesianRouter) -> list[dict[str, Any]]:
    """Return analytic MACs per token and parameters of heads like this one; nothing where nobody counted them."""
    resident = session.resident
    layers = session.layers_of(run.method)
    config, samples = resident.model.config, run.samples
    try:
        if run.estimator == "predictive":
            prompt, answers = _lengths(session)
            total = model_macs(config) * predictive_ratio(
                config, run.method, layers, samples, prompt, answers, session.spec.predictive_positions, head.options()
            )
        else:
            total = model_macs(config) + len(layers) * counted(head, samples)
        parameters = len(layers) * extra_parameters(head)
    except (UncountedError, AttributeError):  # no count for this method, or sizes under other names
        return []
    return [
        _row("macs_per_token", total, model_macs(config), "MACs"),
        _row(
            "parameters", resident.identity["n_parameters"] + parameters, resident.identity["n_parameters"], "weights"
        ),
    ]


def _lengths(session: Session) -> tuple[float, float]:
    """Mean tokens of a prompt, and of its options that are run after it, over the first ID questions."""
    questions = session.inputs.in_distribution.questions[:QUESTIONS]
    texts = [tokens_of(session.spec, session.resident, question) for question in questions]
    prompts = sum(len(tokens.prompt) for tokens in texts)
    answers = sum(len(answer) - 1 for tokens in texts for answer in tokens.answers)
    return prompts / len(questions), answers / len(questions)


def _decode(model: Any, prompts: Mapping[str, torch.Tensor]) -> float:
    return decode_seconds(model, prompts, DECODED)


def _row(quantity: str, value: float, baseline: float, unit: str) -> dict[str, Any]:
    return {"quantity": quantity, "value": float(value), "baseline": float(baseline), "unit": unit}


def summarise(session: Session, run: RunPlan) -> Mapping[str, Columns]:
    return {}
