"""Uncertainty scores per question and how well they rank OoD questions above ID ones: ``ood_scores``, ``metrics``,
``comparisons``.

Every score says "higher = more out-of-distribution" beforehand and is never flipped. Routing scores are read at the
final prompt token and as the mean over the prompt, each averaged over the run's layers. Two controls for what is no
uncertainty at all: ``prompt_length`` as a score of its own, and every answer and final-token score again on questions
matched by prompt length (all sets share one prompt format).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.session.session import Session
from pipelines.spec.runs import RunPlan, expand
from pipelines.stages import Batch, Columns, columns
from pipelines.stages.evaluate import stored_answers
from pipelines.stages.leverage import bayesian_layers
from store.run_tables import RunTables
from vmoer.metrics import length_matched, one_minus_max_prob, ood_metrics, paired_ood_comparison, selective_metrics

TABLES = ("ood_scores",)

#: score name → column of ``routing``
ROUTING_SCORES = {
    "gate_entropy": "routing_entropy",
    "logit_variance": "logit_variance",
    "logit_variance_mc": "logit_variance_mc",
    "temperature": "temperature",
}

#: a run's score → the scores of its baselines it is also compared with, each at its own declared position
ACROSS = {"logit_variance": ("answer_entropy", "gate_entropy"), "temperature": ("answer_entropy",)}
MATCHED = " (length-matched)"
#: questions per side below which a length-matched ranking says nothing
MIN_MATCHED = 10

Key = tuple[str, str, str]


def applies(run: RunPlan) -> bool:
    return True


def plan(session: Session, run: RunPlan) -> list[Batch]:
    return [Batch(item.name, len(item.questions), {"dataset": item.name}) for item in session.inputs.sets]


def compute(session: Session, run: RunPlan, batch: Batch) -> Mapping[str, Columns]:
    item = session.inputs.questions(batch.payload["dataset"])
    rows = _answer_scores(session, run, item.name) + _routing_scores(session, run, item.name)
    rows += [_row(example, "prompt_length", "answer", "none", n) for example, n in _lengths(session, run, item.name)]
    return {"ood_scores": columns([{"dataset": item.name, "role": item.role, **row} for row in rows])}


def _answer_scores(session: Session, run: RunPlan, dataset: str) -> list[dict[str, Any]]:
    rows = []
    for one in stored_answers(session, run.run_id):
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


def _lengths(session: Session, run: RunPlan, dataset: str) -> list[tuple[str, int]]:
    """Prompt tokens of each question, where the run was traced."""
    table = RunTables(session.home, run.run_id).table("examples")
    table = table.filter(pc.equal(table["dataset"], dataset))
    return list(zip(table["example_id"].to_pylist(), table["n_tokens"].to_pylist(), strict=True))


def _routing_scores(session: Session, run: RunPlan, dataset: str) -> list[dict[str, Any]]:
    """The routing scores of one data set, read part by part: memory grows with its questions, not with their tokens."""
    wanted = ["dataset", "example_id", "layer", "position", *ROUTING_SCORES.values()]
    layers = pa.array(bayesian_layers(session, run), pa.uint16())
    means: dict[tuple[str, str], _Means] = defaultdict(_Means)
    for part in RunTables(session.home, run.run_id).parts("routing", wanted):
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


def _row(example: str, score: str, rule: str, aggregation: str, value: float) -> dict[str, Any]:
    return {
        "example_id": example,
        "score": score,
        "position_rule": rule,
        "aggregation": aggregation,
        "value": float(value),
    }


def summarise(session: Session, run: RunPlan) -> Mapping[str, Columns]:
    spec = session.spec
    resampling: dict[str, Any] = {"n_resamples": spec.bootstrap, "seed": spec.seed}
    scores = _by_key(session, run.run_id)
    others = {run_id: _by_key(session, run_id) for run_id in run.compare_with}
    plain = {other.run_id for other in expand(spec) if other.deterministic}
    known = session.inputs.in_distribution.name
    outside = [item for item in session.inputs.sets if item.role in ("near-ood", "far-ood")]
    metrics: list[dict[str, Any]] = []
    compared: list[dict[str, Any]] = []
    for key, by_dataset in scores.items():
        score, rule, aggregation = key
        inside = by_dataset.get(known, {})
        named: dict[str, Any] = {"score": score, "position_rule": rule, "aggregation": aggregation}
        for item in outside:
            found = ood_metrics(_values(inside), _values(by_dataset.get(item.name, {})), **named, **resampling)
            metrics += [value.row(run.run_id, item.name) for value in found]
            metrics += _matched(run, key, item.name, known, scores, resampling)
            for run_id, other in others.items():
                if run_id in plain:
                    compared += _across(run.run_id, run_id, key, item.name, known, by_dataset, other, resampling)
                if rule == "prompt_mean":  # `comparisons` has no position rule: one reading per score
                    continue
                theirs = other.get(key, {})
                pair = _shared(inside, theirs.get(known, {})) + _shared(
                    by_dataset.get(item.name, {}), theirs.get(item.name, {})
                )
                if all(len(values) for values in pair):
                    differences = paired_ood_comparison(pair[0], pair[2], pair[1], pair[3], score=score, **resampling)
                    compared += [difference.row(run.run_id, run_id, item.name) for difference in differences]
    metrics += _error_metrics(session, run, scores, resampling)
    return {"metrics": columns(metrics), "comparisons": columns(compared)}


def _matched(
    run: RunPlan, key: Key, dataset: str, known: str, scores: dict[Key, Any], resampling: dict[str, Any]
) -> list[dict[str, Any]]:
    """The metrics of a score again, on questions of equal prompt length."""
    lengths = scores.get(("prompt_length", "answer", "none"))
    name, rule, aggregation = key
    if lengths is None or rule == "prompt_mean" or name == "prompt_length":
        return []
    sides = [sorted(set(lengths[one]) & set(scores[key].get(one, {}))) for one in (known, dataset)]
    known_lengths, other_lengths = (
        [lengths[one][example] for example in side] for one, side in zip((known, dataset), sides, strict=True)
    )
    inside, outside = length_matched(known_lengths, other_lengths)
    if min(len(inside), len(outside)) < MIN_MATCHED:
        return []
    values = [
        [scores[key][one][side[place]] for place in places]
        for one, side, places in zip((known, dataset), sides, (inside, outside), strict=True)
    ]
    found = ood_metrics(*values, score=name + MATCHED, position_rule=rule, aggregation=aggregation, **resampling)
    return [value.row(run.run_id, dataset) for value in found]


def _across(
    run_id: str,
    other_id: str,
    key: Key,
    dataset: str,
    known: str,
    by_dataset: dict[str, dict[str, float]],
    other: dict[Key, Any],
    resampling: dict[str, Any],
) -> list[dict[str, Any]]:
    """Differences between a score of this run and *another* score of its baseline, on the same questions."""
    rows = []
    for name in ACROSS.get(key[0], ()) if key[1] == "final_prompt_token" else ():
        place = ("answer", "none") if name == "answer_entropy" else ("final_prompt_token", "mean_layers")
        theirs = other.get((name, *place), {})
        inside = _shared(by_dataset.get(known, {}), theirs.get(known, {}))
        outside = _shared(by_dataset.get(dataset, {}), theirs.get(dataset, {}))
        if all(len(values) for values in inside + outside):
            found = paired_ood_comparison(
                inside[0], outside[0], inside[1], outside[1], score=f"{key[0]} vs {name}", **resampling
            )
            rows += [difference.row(run_id, other_id, dataset) for difference in found]
    return rows


def _error_metrics(
    session: Session, run: RunPlan, scores: dict[Key, Any], resampling: dict[str, Any]
) -> list[dict[str, Any]]:
    """How well the routing scores rank wrong answers above right ones, per data set."""
    rows = []
    for one in stored_answers(session, run.run_id):
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


def _by_key(session: Session, run_id: str) -> dict[Key, dict[str, dict[str, float]]]:
    """Stored values by (score, position rule, aggregation), data set and example."""
    found: dict[Key, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in RunTables(session.home, run_id).table("ood_scores").to_pylist():
        key = (row["score"], row["position_rule"], row["aggregation"])
        found[key][row["dataset"]][row["example_id"]] = row["value"]
    return found


def _values(by_example: dict[str, float]) -> list[float]:
    return [by_example[example] for example in sorted(by_example)]


def _shared(first: dict[str, float], second: dict[str, float]) -> tuple[list[float], list[float]]:
    both = sorted(set(first) & set(second))
    return [first[example] for example in both], [second[example] for example in both]
