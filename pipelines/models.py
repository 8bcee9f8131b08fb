"""The model that stays in memory while a worker lives, and how a run puts its routers on it and takes them off."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import vmoer
from pipelines.bases import Base, adapter_folder, map_folder
from pipelines.context import Context
from pipelines.errors import SpecError
from pipelines.manifests import existing
from pipelines.routing import encode_batches, resolve_layers, router_folder
from pipelines.runs import RunPlan
from pipelines.settings import Settings
from pipelines.spec import Spec, resolve_path
from vmoer.architectures import RouterSite
from vmoer.controls import MoeNoise, final_state_noise
from vmoer.handle import Handle
from vmoer.models import model_identity
from vmoer.routers.base import routers
from vmoer.tap import tap_of

_LOADED: dict[tuple[str, str, str], Resident] = {}


@dataclass
class Applied:
    """The model as a run uses it: ``handle`` for Bayesian routers, ``noise`` and ``expand`` for the noise controls."""

    handle: Handle | None = None
    noise: MoeNoise | None = None
    expand: Callable[[int], AbstractContextManager[None]] | None = None

    @property
    def sampler(self) -> Handle | MoeNoise | None:
        """What is sampled in the layers, if anything."""
        return self.handle if self.handle is not None else self.noise


def resident(
    spec: Spec, folders: Sequence[str], settings: Settings, report: Callable[[int, int, str], None]
) -> Resident:
    """The spec's model, loaded once per process (built first, if it has to be); another model takes its place."""
    path = resolve_path(spec.model, folders)
    return kept(str(path.absolute()) if os.path.isdir(path) else spec.model, spec.dtype, settings, report)


def kept(source: str, dtype_name: str, settings: Settings, report: Callable[[int, int, str], None]) -> Resident:
    """A model by name, absolute folder or hub id, kept until another one is asked for."""
    key = (source, settings.device, dtype_name)
    if key not in _LOADED:
        _LOADED.clear()
        device = None if settings.device == "auto" else settings.device
        dtype = None if dtype_name == "auto" else dtype_name
        model, tokenizer = load(
            source,
            device=device,
            dtype=dtype,
            build=True,
            progress=lambda stage, done, total: report(done, total, f"building {source}: {stage}"),
        )
        _LOADED[key] = Resident(model, tokenizer, source)
    return _LOADED[key]


def load(source: str, **arguments: Any) -> tuple[Any, Any]:
    """:func:`vmoer.load_model` without the bars that transformers prints over ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    return vmoer.load_model(source, **arguments)


class Resident:
    """A loaded model; at most one run's routers are on it at a time."""

    def __init__(self, model: Any, tokenizer: Any, source: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.source = source
        self.base = Base(model)
        self._run_id: str | None = None
        self._applied = Applied()

    @cached_property
    def sites(self) -> list[RouterSite]:
        """The native routers, by layer."""
        return tap_of(self.model).sites

    @property
    def moe_layers(self) -> list[int]:
        return [site.layer for site in self.sites]

    @property
    def device_name(self) -> str:
        return str(next(self.model.parameters()).device)

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    def kernels(self) -> dict[str, Any]:
        """What decides the last bits: attention and expert kernels, threads."""
        config = self.model.config
        return {
            "attention": str(getattr(config, "_attn_implementation", None)),
            "experts": str(getattr(config, "_experts_implementation", None)),
            "threads": torch.get_num_threads(),
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The row of table ``models``, without the name."""
        return model_identity(self.model, self.source)

    @contextmanager
    def native(self, context: Context | None = None, base: str | None = None) -> Iterator[Any]:
        """The model without Bayesian routers: as it was loaded, or with the base of an experiment."""
        self.clear()
        self._put_base(context, base)
        yield self.model

    def clear(self) -> None:
        """Take the routers of the last run off; the base stays until another is asked for."""
        if self._applied.handle is not None:
            self._applied.handle.restore()
        self._run_id, self._applied = None, Applied()

    def _put_base(self, context: Context | None, base: str | None = None) -> None:
        """Put the adapter and routers of a base on the model; what is not trained yet is trained first."""
        base = base or (context.spec.base if context is not None else "unadapted")
        if context is None or base == "unadapted":
            self.base.put(None, None)
            return
        from pipelines.train import ensure_adapter, ensure_map_routers

        adapter = adapter_folder(context)
        if adapter is not None and context.spec.adapter is not None and context.spec.adapter.train is not None:
            ensure_adapter(context, self, adapter)
        wanted = map_folder(context) if base == "map" else None
        if wanted is not None and context.spec.map_routers is not None and context.spec.map_routers.train is not None:
            ensure_map_routers(context, self, wanted)
        self.base.put(adapter, wanted)

    def applied(self, context: Context, run: RunPlan) -> Applied:
        """Put a run's routers on the model (once; they stay until another run comes)."""
        if self._run_id != run.run_id:
            self.clear()
            self._put_base(context, run.base(context.spec))
            manifest = existing(context.home, run.run_id)
            card = manifest.card["routing"] if manifest is not None else {}
            self._applied = self._apply(context, run, card)
            self._run_id = run.run_id
        return self._applied

    def _apply(self, context: Context, run: RunPlan, card: dict[str, Any]) -> Applied:
        if run.control == "non-routing-noise":
            return Applied(expand=final_state_noise(self.model, card["noise_scale"], run.samples, run.seed))
        if run.control == "moe-noise":
            layers = self.layers_of(context, run.method)
            return Applied(noise=MoeNoise(self.model, layers, card["noise_scale"], run.seed))
        if run.deterministic:
            return Applied()
        return Applied(handle=self.handle(context, run, card))

    def handle(self, context: Context, run: RunPlan, card: dict[str, Any] | None = None) -> Handle:
        """A fresh active handle for a Bayesian run, on the base that is on the model; the caller restores it.

        ``card`` is what :meth:`describe` said of the run, once it has.
        """
        card = card or {}
        folder = router_folder(context, run.method, run.control)
        if context.spec.routers.train is not None and folder is not None and run.control != "untrained":
            from pipelines.train import train_method

            train_method(context, self, run.method, folder, context.report, control=run.control)
        if folder is not None and run.control != "untrained":
            return vmoer.load_routers(self.model, folder, samples=run.samples, estimator=run.estimator, seed=run.seed)
        chosen = card["layers"] if "layers" in card else self.layers_of(context, run.method)
        saved = {} if folder is None or context.spec.routers.train is not None else _saved_options(folder)
        options = {**saved, **context.spec.options.get(run.method, {})}
        handle = vmoer.bayesianize(
            self.model,
            method=run.method,
            layers=chosen,
            samples=run.samples,
            estimator=run.estimator,
            seed=run.seed,
            calibration=encode_batches(context, self, limit=32),
            **options,
        )
        if "noise_factor" in card:
            handle.scale_noise(card["noise_factor"])
        return handle

    def layers_of(self, context: Context, method: str) -> list[int]:
        """The layers a method's routers sit in: the checkpoint's, else as the spec asks (measured once)."""
        return list(context.remember(f"layers {method}", lambda: resolve_layers(context, self, method)))

    def describe_base(self, context: Context, run: RunPlan) -> dict[str, Any]:
        """Which base a run answers with, and the hashes of its weights."""
        name = run.base(context.spec)
        with self.native(context, name):
            return {"base": name, **self.base.identity()}

    def describe(self, context: Context, run: RunPlan) -> dict[str, Any]:
        """What the manifest says about a run's routing: ``layers``, ``routers`` (their source) and ``card``."""
        if run.deterministic:
            return {"layers": [], "routers": None, "card": {}}
        layers = self.layers_of(context, run.method)
        if run.noisy:
            from pipelines.noise_control import matched_noise

            before = existing(context.home, run.run_id)
            card = before.card["routing"] if before is not None else matched_noise(context, self, run)
            return {"layers": [], "routers": None, "card": card}
        trained = routers.get(run.method).trainable
        source: str | None = context.spec.routers.source or "trained by this spec"
        if not trained:
            source = None
        elif run.control == "untrained":
            source = "as initialised"
        elif run.control == "beta-zero":
            source = f"{source}, with β = 0"
        card = {"layers": layers, "options": context.spec.options.get(run.method, {})}
        if run.control == "untrained":
            from pipelines.noise_control import tuned_untrained

            return {"layers": layers, "routers": source, "card": {**card, **tuned_untrained(context, self, run)}}
        return {"layers": layers, "routers": source, "card": card}


def _saved_options(folder: Path) -> dict[str, Any]:
    try:
        options = json.loads((folder / "routers.json").read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError):
        raise SpecError(f"routers: {folder.name} is not a router checkpoint") from None
    return dict(options)
