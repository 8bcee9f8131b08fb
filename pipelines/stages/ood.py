"""Uncertainty scores per question and how well they rank OoD questions above ID ones: ``ood_scores``, ``metrics``,
``comparisons``.

Every score says "higher = more out-of-distribution" beforehand and is never flipped. Routing scores are read at the
final prompt token and as the mean over the prompt, each averaged over the run's layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.context import Context, columns
from pipelines.runs import RunPlan
from pipelines.stages import Batch, Columns
from pipelines.stages.evaluate import stored_answers
from pipelines.stages.leverage import bayesian
from vmoer.metrics import one_minus_max_prob, ood_metrics, paired_ood_comparison, selective_metrics

TABLES = ("ood_scores",)

#: score name → column of ``routing``
ROUTING_SCORES = {
    "gate_entropy": "routing_entropy",
    "logit_variance": "logit_variance",
    "logit_variance_mc": "logit_variance_mc",
    "temperature": "temperature",
}

Key = tuple[str, str, str]


def applies(run: RunPlan) -> bool:
    return True


def plan(context: Context, run: RunPlan) -> list[Batch]:
    return [Batch(item.name, len(item.questions), {"dataset": item.name}) for item in context.sets]


def compute(context: Context, run: RunPlan, batch: Batch) -> Mapping[str, Columns]:
    item = context.questions(batch.payload["dataset"])
    rows = _answer_scores(context, run, item.name) + _routing_scores(context, run, item.name)
    return {"ood_scores": columns([{"dataset": item.name, "role": item.role, **row} for row in rows])}


def _answer_scores(context: Context, run: RunPlan, dataset: str) -> list[dict[str, Any]]:
    rows = []
    for one in stored_answers(context, run.run_id):
        if one.dataset != dataset:
            continue
        values: dict[str, Any] = {"answer_entropy": one.entropy, "one_minus_max_prob": one_minus_max_prob(one.probs)}
        if all(value is not None for value in one.information):
            values["mutual_information"] = one.information
        for name, found in values.items():
            rows += [
                _row(example, name, "answer", "none", value) for example, value in zip(one.ids, found, strict=True)
            ]
    return rows


def _routing_scores(context: Context, run: RunPlan, dataset: str) -> list[dict[str, Any]]:
    """The routing scores of one data set, read part by part: memory grows with its questions, not with their tokens."""
    wanted = ["dataset", "example_id", "layer", "position", *ROUTING_SCORES.values()]
    layers = pa.array(_layers(context, run), pa.uint16())
    means: dict[tuple[str, str], _Means] = defaultdict(_Means)
    for part in context.parts(run.run_id, "routing", wanted):
        rows = part.filter(pc.and_(pc.equal(part["dataset"], dataset), pc.is_in(part["layer"], layers)))
        examples = np.array(rows["example_id"].to_pylist(), dtype=object)
        position = rows["position"].to_numpy()
        for name, column in ROUTING_SCORES.items():
            values = rows[column].to_numpy(zero_copy_only=False).astype(float)
            known = ~np.isnan(values)
            for rule in ("final_prompt_token", "prompt_mean"):
                of = position[known] if rule == "final_prompt_token" else np.zeros(known.sum(), dtype=int)
                means[name, rule].add(examples[known], of, values[known])
    return [
        _row(example, name, rule, "mean_layers", value)
        for (name, rule), found in means.items()
        for example, value in found.by_example()
    ]


class _Means:
    """Mean per example over the rows of its highest position, whatever parts they come in."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, float, int]] = {}

    def add(self, examples: Any, position: Any, values: Any) -> None:
        """Rows of one part: ``examples``, ``position`` and ``values``, all ``[rows]``."""
        if not len(values):
            return
        names, owner = np.unique(examples.astype(str), return_inverse=True)
        highest = np.full(len(names), -1)
        np.maximum.at(highest, owner, position)
        there = position == highest[owner]
        sums = np.bincount(owner[there], weights=values[there], minlength=len(names))
        counts = np.bincount(owner[there], minlength=len(names))
        for name, last, total, count in zip(names.tolist(), highest.tolist(), sums, counts, strict=True):
            before = self._sums.get(name, (-1, 0.0, 0))
            if last > before[0]:
                self._sums[name] = (last, float(total), int(count))
            elif last == before[0]:
                self._sums[name] = (last, before[1] + float(total), before[2] + int(count))

    def by_example(self) -> list[tuple[str, float]]:
        """``(example, mean)``, sorted by example."""
        return [(name, total / count) for name, (_, total, count) in sorted(self._sums.items())]


def _layers(context: Context, run: RunPlan) -> list[int]:
    """The layers scores are averaged over: those with Bayesian routers; the same for the run they are compared with."""
    resident = context.resident
    methods = bayesian(context) if run.deterministic else [run.method]
    found = sorted({layer for method in methods for layer in resident.layers_of(context, method)})
    return found or resident.moe_layers


def _row(example: str, score: str, rule: str, aggregation: str, value: float) -> dict[str, Any]:
    return {
        "example_id": example,
        "score": score,
        "position_rule": rule,
        "aggregation": aggregation,
        "value": float(value),
    }


def summarise(context: Context, run: RunPlan) -> Mapping[str, Columns]:
    spec = context.spec
    resampling: dict[str, Any] = {"n_resamples": spec.bootstrap, "seed": spec.seed}
    scores = _by_key(context, run.run_id)
    others = {run_id: _by_key(context, run_id) for run_id in run.compare_with}
    known = context.in_distribution.name
    outside = [item for item in context.sets if item.role in ("near-ood", "far-ood")]
    metrics: list[dict[str, Any]] = []
    compared: list[dict[str, Any]] = []
    for key, by_dataset in scores.items():
        score, rule, aggregation = key
        inside = by_dataset.get(known, {})
        named: dict[str, Any] = {"score": score, "position_rule": rule, "aggregation": aggregation}
        for item in outside:
            found = ood_metrics(_values(inside), _values(by_dataset.get(item.name, {})), **named, **resampling)
            metrics += [value.row(run.run_id, item.name) for value in found]
            for run_id, other in others.items():
                if rule == "prompt_mean":  # `comparisons` has no position rule: one reading per score
                    continue
                theirs = other.get(key, {})
                pair = _shared(inside, theirs.get(known, {})) + _shared(
                    by_dataset.get(item.name, {}), theirs.get(item.name, {})
                )
                if all(len(values) for values in pair):
                    differences = paired_ood_comparison(pair[0], pair[2], pair[1], pair[3], score=score, **resampling)
                    compared += [difference.row(run.run_id, run_id, item.name) for difference in differences]
    metrics += _error_metrics(context, run, scores, resampling)
    return {"metrics": columns(metrics), "comparisons": columns(compared)}


def _error_metrics(
    context: Context, run: RunPlan, scores: dict[Key, Any], resampling: dict[str, Any]
) -> list[dict[str, Any]]:
    """How well the routing scores rank wrong answers above right ones, per data set."""
    rows = []
    for one in stored_answers(context, run.run_id):
        wrong = {
            example: int(np.argmax(probs)) != right
            for example, probs, right in zip(one.ids, one.probs, one.right, strict=True)
        }
        for (score, rule, aggregation), by_dataset in scores.items():
            values = by_dataset.get(one.dataset, {})
            if aggregation != "mean_layers" or set(values) != set(wrong):
                continue
            found = selective_metrics(
                [values[example] for example in one.ids],
                [wrong[example] for example in one.ids],
                score=score,
                position_rule=rule,
                aggregation=aggregation,
                **resampling,
            )
            rows += [value.row(run.run_id, one.dataset) for value in found]
    return rows


def _by_key(context: Context, run_id: str) -> dict[Key, dict[str, dict[str, float]]]:
    """Stored values by (score, position rule, aggregation), data set and example."""
    found: dict[Key, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in context.table(run_id, "ood_scores").to_pylist():
        key = (row["score"], row["position_rule"], row["aggregation"])
        found[key][row["dataset"]][row["example_id"]] = row["value"]
    return found


def _values(by_example: dict[str, float]) -> list[float]:
    return [by_example[example] for example in sorted(by_example)]


def _shared(first: dict[str, float], second: dict[str, float]) -> tuple[list[float], list[float]]:
    both = sorted(set(first) & set(second))
    return [first[example] for example in both], [second[example] for example in both]
