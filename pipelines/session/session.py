"""What a process keeps while it computes an experiment: its model, and which of its routers are on it.

Nothing here trains or measures: that is done before a run, by :mod:`pipelines.preparation`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import vmoer
from pipelines.errors import PipelineError, SpecError
from pipelines.model.resident import Applied, Resident, kept
from pipelines.session.batching import encode_batches
from pipelines.session.checkpoints import router_folder
from pipelines.session.inputs import Inputs
from pipelines.session.model_input import described
from pipelines.spec.model import Spec, resolve_path
from pipelines.spec.runs import RunPlan
from store.catalog import find_manifest
from vmoer.handle import Handle
from vmoer.measure.noise_controls import MoeNoise, final_state_noise

#: ``report(done, total, message)`` from inside a long step
Report = Callable[[int, int, str], None]


def _silent(done: int, total: int, message: str) -> None:
    """Tell nobody."""


class Session:
    """One experiment in one process; all but ``layers`` is derived, so that a restart rebuilds it.

    ``report`` shows how far a long step has come, ``note`` puts a sentence into the job's log, and ``layers`` holds the
    layers of each method, as :func:`pipelines.preparation.setup.prepare_experiment` has chosen them.
    """

    def __init__(self, inputs: Inputs, report: Report = _silent, note: Callable[[str], None] = lambda _: None) -> None:
        self.inputs = inputs
        self.report = report
        self.note = note
        self.layers: dict[str, list[int]] | None = None
        self._cache: dict[str, Any] = {}

    @property
    def spec(self) -> Spec:
        """The spec of the experiment."""
        return self.inputs.spec

    @property
    def home(self) -> Path:
        """The data folder."""
        return self.inputs.home

    @cached_property
    def resident(self) -> Resident:
        """The model with its tokenizer, loaded on first use (built first, if it has to be)."""
        path = resolve_path(self.spec.model, self.inputs.folders)
        source = str(path.absolute()) if os.path.isdir(path) else self.spec.model
        return kept(source, self.spec.dtype, self.inputs.settings, lambda *told: self.report(*told))

    def texts(self) -> dict[str, dict[str, Any]]:
        """Return what the card says of the texts of each question set; refused where the model cannot read some."""

        def describe() -> dict[str, dict[str, Any]]:
            return {item.name: described(self.spec, self.resident, item, self.note) for item in self.inputs.sets}

        return dict(self.remember("texts", describe))

    def remember(self, key: str, make: Callable[[], Any]) -> Any:
        """Return ``make()`` of the first time a key is asked for in this process."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def layers_of(self, method: str) -> list[int]:
        """Return the layers of a method's routers."""
        if self.layers is None:
            raise PipelineError("the layers of the routers are not chosen yet: prepare the experiment first")
        return list(self.layers[method])

    @contextmanager
    def native(self, base: str | None = None) -> Iterator[Any]:
        """Yield the model without Bayesian routers, on a base of the experiment (its own unless another is named)."""
        self._put_base(base or self.spec.base)
        yield self.resident.model

    def _put_base(self, base: str) -> None:
        parts = self.inputs.parts
        if base == "unadapted":
            self.resident.put(None, None)
        else:
            self.resident.put(parts.adapter(), parts.map_routers() if base == "map" else None)

    def apply(self, run: RunPlan) -> Applied:
        """Put a run's routers on the model, as its manifest says; they stay until another run comes."""
        applied = self.resident.applied((self, run.run_id))
        if applied is None:
            self._put_base(run.base(self.spec))
            manifest = find_manifest(self.home, run.run_id)
            applied = self._made(run, manifest.card["routing"] if manifest is not None else {})
            self.resident.keep((self, run.run_id), applied)
        return applied

    def _made(self, run: RunPlan, card: dict[str, Any]) -> Applied:
        model = self.resident.model
        if run.control == "non-routing-noise":
            return Applied(expand=final_state_noise(model, card["noise_scale"], run.samples, run.seed))
        if run.control == "moe-noise":
            return Applied(noise=MoeNoise(model, self.layers_of(run.method), card["noise_scale"], run.seed))
        if run.deterministic:
            return Applied()
        return Applied(handle=self.handle(run, card))

    def handle(self, run: RunPlan, card: dict[str, Any] | None = None) -> Handle:
        """Return a fresh active handle for a Bayesian run, on the base that is on the model; the caller restores it.

        ``card`` is what the run's manifest says of its routing, once it does.
        """
        card = card or {}
        folder = router_folder(self.inputs, run.method, run.control)
        model = self.resident.model
        if folder is not None and run.control != "untrained":
            handle = vmoer.load_routers(model, folder, samples=run.samples, estimator=run.estimator, seed=run.seed)
            if run.control == "own-mean":
                handle.scale_noise(0.0)
            if run.control == "prior-covariance":
                handle.set_prior_covariance()
                handle.scale_noise(card.get("noise_factor", 1.0))
            return handle
        chosen = card["layers"] if "layers" in card else self.layers_of(run.method)
        saved = {} if folder is None or self.spec.routers.train is not None else _saved_options(folder)
        options = {**saved, **self.spec.options.get(run.method, {})}
        handle = vmoer.bayesianize(
            model,
            method=run.method,
            layers=chosen,
            samples=run.samples,
            estimator=run.estimator,
            seed=run.seed,
            calibration=encode_batches(self.inputs, self.resident, limit=32),
            **options,
        )
        if "noise_factor" in card:
            handle.scale_noise(card["noise_factor"])
        return handle


def _saved_options(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "routers.json").read_text(encoding="utf-8"))
        return {**vmoer.routers.routers.get(config["method"]).earlier_options, **config["options"]}
    except (OSError, ValueError, KeyError):
        raise SpecError(f"routers: {folder.name} is not a router checkpoint") from None
