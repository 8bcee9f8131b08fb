"""The two forms of the predictive estimator on worldfacts-moe: what they cost, and how far their answers differ."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from pipelines.data.prompts import likelihood_option, likelihood_prompt
from pipelines.data.questions import load_questions
from pipelines.settings import load_settings
from pipelines.spec.sections import DataSource
from pipelines.spec.shipped import SHIPPED
from vmoer import load_model, load_routers
from vmoer.measure.macs import predictive_ratio
from vmoer.metrics import calibration_metrics
from vmoer.scoring.options import OptionScores, score_options

METHOD, SAMPLES = "fcvr", 16
FORMS = ("all", "scored")
#: goal for counted FLOPs ÷ the deterministic model's, S = 16
GOALS = {"all": 16.0, "scored": 10.0}
#: the mean total variation distance between the answers of both forms
DIFFERENCE_GOAL = 0.15


def run(quick: bool) -> list[dict[str, Any]]:
    """Rows ``name, value, goal, met, detail``; ``quick`` asks 60 questions instead of 300."""
    model, tokenizer = load_model("worldfacts-moe")
    model.set_experts_implementation("eager")  # the counter does not know the grouped product
    source = DataSource(name="worldfacts", split="test", limit=60 if quick else 300)
    questions = load_questions(source, "in-distribution", (), load_settings()).questions
    prompts = [likelihood_prompt(question.question) for question in questions]
    options = [[likelihood_option(choice) for choice in question.choices] for question in questions]
    right = [question.answer for question in questions]

    def counted(**how: Any) -> tuple[list[OptionScores], float]:
        with FlopCounterMode(display=False) as counter:
            found = score_options(model, tokenizer, prompts, options, **how)
        return found, float(counter.get_total_flops())

    native, base = counted()
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    tails = [sum(option - 1 for option in scores.n_tokens) for scores in native]
    rows, averaged = [], {}
    n = len(questions)
    with load_routers(model, SHIPPED / "worldfacts-moe" / METHOD, estimator="predictive") as handle:
        for form in FORMS:
            found, flops = counted(handle=handle, samples=SAMPLES, positions=form)
            averaged[form] = [scores.probabilities().mean(0) for scores in found]
            formula = predictive_ratio(
                model.config, METHOD, handle.layers, SAMPLES, round(np.mean(lengths)), round(np.mean(tails)), form
            )
            detail = f"S={SAMPLES}, n={n}, {METHOD}; {formula:.2f} by the formula; {_quality(averaged[form], right)}"
            rows.append(_row(f"predictive/{form}/flops", flops / base, GOALS[form], detail))
    plain = [scores.probabilities()[0] for scores in native]
    distance = float(np.mean([_distance(a, b) for a, b in zip(*averaged.values(), strict=True)]))
    moved = float(np.mean([_distance(a, b) for a, b in zip(averaged["all"], plain, strict=True)]))
    detail = f"n={n}; from the deterministic answers to `all`: {moved:.3f}; deterministic {_quality(plain, right)}"
    rows.append(_row("predictive/scored-vs-all/total-variation", distance, DIFFERENCE_GOAL, detail))
    return rows


def _distance(first: Any, second: Any) -> float:
    return float(np.abs(first - second).sum() / 2)


def _quality(probabilities: list[Any], right: list[int]) -> str:
    found = {value.metric: value for value in calibration_metrics(probabilities, right, n_resamples=200)}
    parts = [
        f"{name} {found[name].value:.3f} [{found[name].ci_low:.3f}, {found[name].ci_high:.3f}]"
        for name in ("accuracy", "ece", "nll")
    ]
    return ", ".join(parts)


def _row(name: str, value: float, goal: float, detail: str) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "goal": goal, "met": value <= goal, "detail": detail}


if __name__ == "__main__":
    from benchmarks.timing import report

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 questions")
    print(report(run(parser.parse_args().quick)))
