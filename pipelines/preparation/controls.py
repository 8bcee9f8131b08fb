"""The strength of a method's controls: other noise as far from the base's answers, untrained heads as well tuned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.data.questions import QuestionSet, load_questions
from pipelines.session.scoring import score
from pipelines.session.session import Session
from pipelines.spec.runs import RunPlan
from vmoer.handle import Handle
from vmoer.measure.noise_controls import MoeNoise, disagreement, final_state_noise, matched_scale
from vmoer.scoring.options import Normalise

QUESTIONS = 16
#: multiples of the trained σ that are tried on the validation set
NOISE_GRID = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


def matched_noise(session: Session, run: RunPlan) -> dict[str, Any]:
    """``noise_scale`` (σ over the token's own RMS), the mean KL divergence in nats it was matched to, and its own.

    Matched is how far the method's samples are from the answers of its own mean.
    """
    item = session.inputs.calibration
    questions = item.questions[:QUESTIONS]
    with session.native():
        plain = score(session, questions)
    sampled = replace(run, control="none", estimator="predictive")
    with session.native(), session.handle(sampled) as handle:
        with handle.without_noise():
            centre = score(session, questions, handle=handle)
        target = disagreement(score(session, questions, handle=handle, samples=run.samples), centre)
    layers = session.layers_of(run.method)

    def strength(scale: float) -> float:
        noise: dict[str, Any] = {"expand": final_state_noise(session.resident.model, scale, run.samples, run.seed)}
        if run.control == "moe-noise":
            noise = {"handle": MoeNoise(session.resident.model, layers, scale, run.seed)}
        return disagreement(score(session, questions, samples=run.samples, **noise), plain)

    with session.native():
        scale = matched_scale(strength, target)
        reached = strength(scale)
    return {
        "noise_scale": scale,
        "matched_nats": target,
        "noise_nats": reached,
        "matched_questions": len(questions),
    }


def tuned_control(session: Session, run: RunPlan) -> dict[str, Any]:
    """``noise_factor``: σ of untrained heads, or of the prior's covariance around a trained mean, over the prior's.

    Chosen on the validation questions as ``tune_noise`` chooses it for trained ones; empty where that is not asked for.
    """
    part = session.spec.routers.train
    if part is None or not part.tune_noise:
        return {}

    def tune() -> dict[str, Any]:
        found = load_questions(part.validation, "validation", session.inputs.folders, session.inputs.settings)
        with session.native(), session.handle(run) as handle:
            tuned_noise(session, handle, found)
            factor = float(handle.head(handle.layers[0]).noise_scale)
        return {"noise_factor": factor, "tuned_questions": len(found.questions)}

    return dict(session.remember(f"{run.control} noise {run.method}", tune))


def tuned_noise(session: Session, handle: Handle, found: QuestionSet) -> list[tuple[int, int, str, float]]:
    """Set the handle's σ to the multiple with the lowest validation NLL of the averaged answers; returns log rows.

    The step of a row is its place in :data:`NOISE_GRID`.
    """
    rows: list[tuple[int, int, str, float]] = []
    nlls = []
    for place, factor in enumerate(NOISE_GRID):
        handle.scale_noise(factor)
        scored = score(session, found.questions, handle=handle, samples=session.spec.answer_samples)
        normalise: Normalise = "mean" if session.spec.normalise else "sum"
        right = [
            float(options.probabilities(normalise).mean(0)[question.answer])
            for options, question in zip(scored, found.questions, strict=True)
        ]
        nlls.append(-float(np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean()))
        rows += [(place, -1, "noise_scale", factor), (place, -1, "noise_nll", nlls[-1])]
    handle.scale_noise(NOISE_GRID[int(np.argmin(nlls))])
    return rows
