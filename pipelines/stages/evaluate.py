"""Answers with their probabilities, and every calibration metric computed from them, raw and temperature-scaled.

Tables: ``predictions`` per batch, and ``examples`` where texts are stored and no stage traces them; ``metrics``,
``reliability_bins`` and ``comparisons`` as summaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.session.inputs import steps
from pipelines.session.model_input import prompt_of, tokens_of
from pipelines.session.scoring import score
from pipelines.session.session import Session
from pipelines.spec.model import Spec
from pipelines.spec.runs import RunPlan
from pipelines.stages import Batch, Columns, columns
from pipelines.stages.examples import example_columns
from store.run_tables import RunTables
from vmoer.metrics import (
    align,
    apply_temperature,
    calibration_metrics,
    cross_fit_temperature,
    fit_temperature,
    mutual_information,
    paired_comparison,
    predictive_entropy,
    reliability_bins,
    selective_metrics,
    variation_ratio,
)
from vmoer.metrics.reliability import Scheme
from vmoer.metrics.summary import FOLDS
from vmoer.metrics.temperature import fold_of
from vmoer.scoring.options import Normalise, OptionScores

TABLES = ("predictions",)


def tables(spec: Spec) -> tuple[str, ...]:
    """Return the tables of every batch: without the stage trace, the texts that are to be stored come from here."""
    return (*TABLES, "examples") if spec.store_text and "trace" not in spec.stages else TABLES


_FLOOR = float(np.finfo(np.float64).tiny)


def applies(run: RunPlan) -> bool:
    return True


def passes(run: RunPlan) -> int:
    """Forward passes per question."""
    return run.samples if run.estimator == "predictive" and run.control != "non-routing-noise" else 1


def plan(session: Session, run: RunPlan) -> list[Batch]:
    each = passes(run)
    return [
        Batch(f"{item.name}/{first}", tokens * each, {"dataset": item.name, "first": first, "last": last})
        for item in session.inputs.sets
        for first, last, tokens in steps(item.questions, session.spec, each)
    ]


def compute(session: Session, run: RunPlan, batch: Batch) -> Mapping[str, Columns]:
    item = session.inputs.questions(batch.payload["dataset"])
    questions = item.questions[batch.payload["first"] : batch.payload["last"]]
    applied = session.apply(run)
    averaged = run.estimator == "predictive"
    scored = score(
        session,
        questions,
        samples=run.samples if averaged else 1,
        handle=applied.sampler,
        expand=applied.expand,
    )
    normalise: Normalise = "mean" if item.normalise else "sum"
    rows = []
    for question, options in zip(questions, scored, strict=True):
        answer = answered(options, normalise, averaged)
        right = max(float(answer["probs"][question.answer]), _FLOOR)
        rows.append(
            {
                "dataset": item.name,
                "example_id": question.id,
                "role": item.role,
                **answer,
                "answer_index": question.answer,
                "correct": answer["predicted"] == question.answer,
                "nll": -float(np.log(right)),
                "option_tokens": options.n_tokens,
            }
        )
    found: dict[str, Columns] = {"predictions": columns(rows)}
    if "examples" in tables(session.spec):
        tokenizer = session.resident.tokenizer
        prompts = [prompt_of(session.spec, tokenizer, question) for question in questions]
        lengths = [len(tokens_of(session.spec, session.resident, question).prompt) for question in questions]
        found["examples"] = example_columns(item, questions, prompts, lengths, store_text=True)
    return found


def answered(options: OptionScores, normalise: Normalise, averaged: bool) -> dict[str, Any]:
    """Probabilities of one question and what follows from them; ``averaged`` takes the mean over samples.

    The scores of averaged answers are the logarithm of the averaged probabilities, so that a softmax gives them back.
    """
    per_sample = options.probabilities(normalise)
    if averaged:
        probs = per_sample.mean(0)
        scores = np.log(np.maximum(probs, _FLOOR))
        spread = per_sample[:, None, :]
        information = float(mutual_information(spread)[0])
        disagreement = float(variation_ratio(spread)[0])
    else:
        probs, scores = per_sample[0], options.scores(normalise)[0]
        information = disagreement = None  # type: ignore[assignment]
    return {
        "probs": probs,
        "predicted": int(probs.argmax()),
        "confidence": float(probs.max()),
        "predictive_entropy": float(predictive_entropy([probs])[0]),
        "mutual_information": information,
        "variation_ratio": disagreement,
        "option_scores": scores,
    }


@dataclass(frozen=True)
class Answers:
    """The stored answers of a run on one data set, in the order of their ids."""

    dataset: str
    role: str
    ids: list[str]
    probs: list[Any]
    scores: list[Any]
    right: list[int]
    entropy: list[float]
    information: list[float | None]

    def scaled(self, temperature: float | None) -> list[Any] | None:
        """Temperature-scaled probabilities: with the given temperature, else cross-fitted, else none."""
        if temperature is not None:
            return list(apply_temperature(self.scores, temperature))
        if len(set(fold_of(self.ids, FOLDS).tolist())) < FOLDS:
            return None
        return list(cross_fit_temperature(self.scores, self.right, self.ids, FOLDS).probs)


def stored_answers(session: Session, run_id: str) -> list[Answers]:
    """A run's answers by data set, in the experiment's order."""
    rows = RunTables(session.home, run_id).table("predictions").to_pylist()
    found = []
    for item in session.inputs.sets:
        mine = [row for row in rows if row["dataset"] == item.name]
        if mine:
            found.append(
                Answers(
                    item.name,
                    item.role,
                    [row["example_id"] for row in mine],
                    [np.asarray(row["probs"]) for row in mine],
                    [np.asarray(row["option_scores"]) for row in mine],
                    [row["answer_index"] for row in mine],
                    [row["predictive_entropy"] for row in mine],
                    [row["mutual_information"] for row in mine],
                )
            )
    return found


def temperature_for(answers: list[Answers], one: Answers) -> float | None:
    """The temperature for a data set: fitted on validation, else on the ID set (``None``: cross-fit the ID set)."""
    validation = next((item for item in answers if item.role == "validation"), None)
    if validation is not None:
        return fit_temperature(validation.scores, validation.right)
    if one.role == "in-distribution":
        return None
    known = next(item for item in answers if item.role == "in-distribution")
    return fit_temperature(known.scores, known.right)


def summarise(session: Session, run: RunPlan) -> Mapping[str, Columns]:
    spec = session.spec
    resampling: dict[str, Any] = {"n_resamples": spec.bootstrap, "seed": spec.seed}
    answers = stored_answers(session, run.run_id)
    others = {run_id: stored_answers(session, run_id) for run_id in run.compare_with}
    metrics: list[dict[str, Any]] = []
    bins: list[dict[str, Any]] = []
    compared: list[dict[str, Any]] = []
    for one in answers:
        scaled = None if one.role == "validation" else one.scaled(temperature_for(answers, one))
        tuning: dict[str, Any] = {}
        if scaled is not None:
            temperature = temperature_for(answers, one)
            tuning = {"temperature": temperature} if temperature is not None else {"ids": one.ids}
        found = calibration_metrics(one.probs, one.right, option_scores=one.scores, **tuning, **resampling)
        wrong = [int(np.argmax(probs)) != right for probs, right in zip(one.probs, one.right, strict=True)]
        found += selective_metrics(one.entropy, wrong, score="answer_entropy", **resampling)
        if all(value is not None for value in one.information):
            found += selective_metrics(
                np.asarray(one.information, dtype=float), wrong, score="mutual_information", **resampling
            )
        metrics += [value.row(run.run_id, one.dataset) for value in found]
        bins += _bins(one, "raw", one.probs)
        if scaled is not None:
            bins += _bins(one, "temperature-scaled", scaled)
        for run_id, baseline in others.items():
            compared += _compare(run.run_id, run_id, one, answers, baseline, resampling)
    return {"metrics": columns(metrics), "reliability_bins": columns(bins), "comparisons": columns(compared)}


def _bins(one: Answers, calibration: str, probs: list[Any]) -> list[dict[str, Any]]:
    rows = []
    schemes: tuple[Scheme, ...] = ("equal-width", "adaptive")
    for scheme in schemes:
        found = reliability_bins(probs, one.right, scheme)
        for place in range(len(found["bin"])):
            row = {name: values[place] for name, values in found.items()}
            rows.append({"dataset": one.dataset, "calibration": calibration, **row})
    return rows


def _compare(
    run_id: str,
    baseline_id: str,
    one: Answers,
    answers: list[Answers],
    baseline: list[Answers],
    resampling: dict[str, Any],
) -> list[dict[str, Any]]:
    """Paired differences on the examples both runs answered, raw and temperature-scaled."""
    other = next((item for item in baseline if item.dataset == one.dataset), None)
    if other is None:
        return []
    mine, theirs = align(one.ids, other.ids)
    right = [one.right[place] for place in mine]
    pairs: list[tuple[Any, list[Any] | None, list[Any] | None]] = [("", one.probs, other.probs)]
    if one.role != "validation":
        ours = one.scaled(temperature_for(answers, one))
        pairs.append(("_ts", ours, other.scaled(temperature_for(baseline, other))))
    rows = []
    for suffix, first, second in pairs:
        if first is None or second is None:
            continue
        found = paired_comparison(
            [first[place] for place in mine],
            [second[place] for place in theirs],
            right,
            suffix=suffix,
            n_resamples=resampling["n_resamples"],
            seed=resampling["seed"],
        )
        rows += [difference.row(run_id, baseline_id, one.dataset) for difference in found]
    return rows
