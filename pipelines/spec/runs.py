"""From a spec to its runs: one for the deterministic baseline, one per method × estimator, and their controls."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from pipelines.spec.model import Spec
from vmoer.methods import has_kl, has_prior_covariance, trainable

_SUFFIX = {"none": "", "non-routing-noise": ".noise"}

#: controls that average answers over noise which has nothing to do with routing
NOISE = ("non-routing-noise", "moe-noise")
#: deterministic rows beside the experiment's own base → the base they answer with
BASELINES = {"unadapted": "unadapted", "pretrained-routers": "pretrained", "map-routers": "map"}


@dataclass(frozen=True)
class RunPlan:
    """One run before it is computed; ``run_id`` follows from the spec alone, so repeating a spec repeats the ids."""

    run_id: str
    experiment: str
    name: str
    model: str
    method: str
    estimator: str
    control: str
    samples: int
    seed: int
    compare_with: tuple[str, ...]

    @property
    def deterministic(self) -> bool:
        """True for a model without posterior: the experiment's base, or one of the baselines beside it."""
        return self.method == "deterministic"

    @property
    def noisy(self) -> bool:
        """True for a control whose noise has nothing to do with routing."""
        return self.control in NOISE

    def base(self, spec: Spec) -> str:
        """``unadapted``, or the routers beside the adapter (if any): ``pretrained`` or ``map``."""
        return BASELINES.get(self.control, spec.base)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the record of the plan step."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunPlan:
        """The plan that :meth:`to_json` wrote."""
        return cls(**{**values, "compare_with": tuple(values["compare_with"])})


def model_slug(source: str) -> str:
    """A short name for a model source: bundled name, last part of a folder or hub id; only ``[a-z0-9_-]``."""
    last = PurePosixPath(source.replace("\\", "/").rstrip("/")).name or "model"
    return re.sub(r"[^a-z0-9_-]+", "-", last.lower()).strip("-")[:48] or "model"


def expand(spec: Spec, model_name: str | None = None) -> list[RunPlan]:
    """Runs in the order they are computed: a run comes after those it is compared with.

    The deterministic baseline is always first: the model with the experiment's base (adapter, pretrained or MAP
    routers), on which every Bayesian row stands. An adapter adds the row ``unadapted``; MAP routers add the row with
    them (or, when they are the base, the row without). A Bayesian run is compared with all of these and with its own
    controls. The noise controls average answers, so their estimator is ``predictive``; there is one of each kind per
    method, as strong as that method's own samples, and one pass of its own mean. A head control that would repeat the
    method's own row is left out.
    """
    model = model_name or model_slug(spec.model)

    def plan(method: str, estimator: str, control: str, samples: int, *compare_with: RunPlan) -> RunPlan:
        identity = f"{spec.experiment}/{model}/{method}/{estimator}/{control}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        return RunPlan(
            run_id=f"{model}.{method}.{estimator}{_SUFFIX.get(control, '.' + control)}.{digest}",
            experiment=spec.experiment,
            name=spec.name,
            model=model,
            method=method,
            estimator=estimator,
            control=control,
            samples=samples,
            seed=spec.seed,
            compare_with=tuple(run.run_id for run in compare_with),
        )

    first = plan("deterministic", "none", "none", 1)
    beside = ["unadapted"] if spec.adapter is not None else []
    if spec.map_routers is not None:
        beside.append("map-routers" if spec.base == "pretrained" else "pretrained-routers")
    baselines = [first, *(plan("deterministic", "none", control, 1, first) for control in beside)]
    runs = list(baselines)
    for method in (method for method in spec.methods if method != "deterministic"):
        noise = [
            plan(method, "predictive", control, spec.answer_samples, *baselines)
            for control in NOISE
            if control in spec.controls
        ]
        mean = []
        if "own-mean" in spec.controls and trainable(method) and spec.routers.source != "untrained":
            mean = [plan(method, "in-router", "own-mean", 1, *baselines)]
        runs += [*noise, *mean]
        # untrained heads without parameters, or β = 0 without a KL, would repeat the method's own row
        differs = {
            "untrained": trainable(method),
            "beta-zero": has_kl(method),
            "prior-covariance": has_prior_covariance(method) and spec.routers.source != "untrained",
        }
        for estimator in spec.estimators:
            samples = {"in-router": spec.samples, "closed-form": 1}.get(estimator, spec.answer_samples)
            heads = [
                plan(method, estimator, control, samples, *baselines)
                for control, own in differs.items()
                if control in spec.controls and own
            ]
            runs += [*heads, plan(method, estimator, "none", samples, *baselines, *mean, *heads, *noise)]
    return runs


def run_label(run: RunPlan) -> str:
    """Return what a progress line calls a run."""
    control = "" if run.control == "none" else f" ({run.control})"
    estimator = "" if run.estimator == "none" else f" {run.estimator}"
    return f"{run.model} {run.method}{estimator}{control}"
