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
    baseline: str | None

    @property
    def deterministic(self) -> bool:
        """True for the plain native model."""
        return self.method == "deterministic"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunPlan:
        return cls(**values)


def model_slug(source: str) -> str:
    """A short name for a model source: bundled name, last part of a folder or hub id; only ``[a-z0-9_-]``."""
    last = PurePosixPath(source.replace("\\", "/").rstrip("/")).name or "model"
    return re.sub(r"[^a-z0-9_-]+", "-", last.lower()).strip("-")[:48] or "model"


def expand(spec: Spec, model_name: str | None = None) -> list[RunPlan]:
    """Runs in the order they are computed: the deterministic one first, as the others are compared with it.

    The non-routing-noise control averages answers over passes with noise on the final hidden state. It has no router,
    so there is one per method, always with the predictive estimator's meaning.
    """
    model = model_name or model_slug(spec.model)

    def plan(method: str, estimator: str, control: str, samples: int, baseline: str | None) -> RunPlan:
        identity = f"{spec.experiment}/{model}/{method}/{estimator}/{control}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        run_id = f"{model}.{method}.{estimator}{_SUFFIX[control]}.{digest}"
        return RunPlan(
            run_id=run_id,
            experiment=spec.experiment,
            name=spec.name,
            model=model,
            method=method,
            estimator=estimator,
            control=control,
            samples=samples,
            seed=spec.seed,
            baseline=baseline,
        )

    first = plan("deterministic", "none", "none", 1, None)
    runs = [first]
    bayesian = [method for method in spec.methods if method != "deterministic"]
    for method in bayesian:
        for estimator in spec.estimators:
            samples = spec.samples if estimator == "in-router" else spec.answer_samples
            runs.append(plan(method, estimator, "none", samples, first.run_id))
            if "untrained" in spec.controls:
                runs.append(plan(method, estimator, "untrained", samples, first.run_id))
        if "non-routing-noise" in spec.controls:
            runs.append(plan(method, "predictive", "non-routing-noise", spec.answer_samples, first.run_id))
    return runs
