"""From a spec to its runs: one for the deterministic baseline, one per method × estimator, and their controls."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.spec import Spec

_SUFFIX = {"none": "", "untrained": ".untrained", "non-routing-noise": ".noise"}


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
        """True for the plain native model."""
        return self.method == "deterministic"

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

    The deterministic baseline is always first. A Bayesian run is compared with it and with its own controls. The
    non-routing-noise control averages answers over noise on the final hidden state, so its estimator is ``predictive``;
    there is one per method, as strong as that method's own samples.
    """
    model = model_name or model_slug(spec.model)

    def plan(method: str, estimator: str, control: str, samples: int, *compare_with: RunPlan) -> RunPlan:
        identity = f"{spec.experiment}/{model}/{method}/{estimator}/{control}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        return RunPlan(
            run_id=f"{model}.{method}.{estimator}{_SUFFIX[control]}.{digest}",
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
    runs = [first]
    for method in (method for method in spec.methods if method != "deterministic"):
        noise = []
        if "non-routing-noise" in spec.controls:
            noise = [plan(method, "predictive", "non-routing-noise", spec.answer_samples, first)]
        runs += noise
        for estimator in spec.estimators:
            samples = spec.samples if estimator == "in-router" else spec.answer_samples
            untrained = []
            if "untrained" in spec.controls:
                untrained = [plan(method, estimator, "untrained", samples, first)]
            runs += [*untrained, plan(method, estimator, "none", samples, first, *untrained, *noise)]
    return runs
