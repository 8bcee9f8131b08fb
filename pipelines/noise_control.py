"""The strength of a method's controls: other noise as far from the base's answers, untrained heads as well tuned."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.context import Context
from pipelines.questions import load_questions
from pipelines.runs import RunPlan
from pipelines.scoring import score, tuned_noise
from vmoer.controls import MoeNoise, disagreement, final_state_noise, matched_scale

if TYPE_CHECKING:
    from pipelines.models import Resident

QUESTIONS = 16


def matched_noise(context: Context, resident: Resident, run: RunPlan) -> dict[str, Any]:
    """``noise_scale`` (σ over the token's own RMS) and the mean KL divergence in nats it was matched to."""
    item = context.calibration
    questions = item.questions[:QUESTIONS]
    with resident.native(context):
        plain = score(context, resident, questions)
    sampled = replace(run, control="none", estimator="predictive")
    with resident.native(context), resident.handle(context, sampled) as handle:
        target = disagreement(score(context, resident, questions, handle=handle, samples=run.samples), plain)
    layers = resident.layers_of(context, run.method)

    def strength(scale: float) -> float:
        noise: dict[str, Any] = {"expand": final_state_noise(resident.model, scale, run.samples, run.seed)}
        if run.control == "moe-noise":
            noise = {"handle": MoeNoise(resident.model, layers, scale, run.seed)}
        return disagreement(score(context, resident, questions, samples=run.samples, **noise), plain)

    with resident.native(context):
        scale = matched_scale(strength, target)
    return {"noise_scale": scale, "matched_nats": target, "matched_questions": len(questions)}


def tuned_untrained(context: Context, resident: Resident, run: RunPlan) -> dict[str, Any]:
    """``noise_factor``: σ of untrained heads over their prior's, chosen on the validation questions as ``tune_noise``
    chooses it for trained ones; empty where that is not asked for.
    """
    part = context.spec.routers.train
    if part is None or not part.tune_noise:
        return {}

    def tune() -> dict[str, Any]:
        found = load_questions(part.validation, "validation", context.folders, context.settings)
        with resident.native(context), resident.handle(context, run) as handle:
            tuned_noise(context, resident, handle, found)
            factor = float(handle.head(handle.layers[0]).noise_scale)
        return {"noise_factor": factor, "tuned_questions": len(found.questions)}

    return dict(context.remember(f"untrained noise {run.method}", tune))
