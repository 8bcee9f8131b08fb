"""The model that stays in memory while a worker lives, and how a run puts its routers on it and takes them off."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import vmoer
from pipelines.context import Context
from pipelines.errors import SpecError
from pipelines.manifests import existing
from pipelines.routing import encode_batches, resolve_layers, router_folder
from pipelines.runs import RunPlan
from pipelines.settings import Settings
from pipelines.spec import Spec, resolve_path
from vmoer.architectures import RouterSite
from vmoer.controls import final_state_noise
from vmoer.handle import Handle
from vmoer.models import model_identity
from vmoer.routers.base import routers
from vmoer.tap import tap_of

_LOADED: dict[tuple[str, str, str], Resident] = {}


@dataclass
class Applied:
    """The model as a run uses it: ``handle`` for Bayesian routers, ``expand`` for the noise control."""

    handle: Handle | None = None
    expand: Callable[[int], AbstractContextManager[None]] | None = None


def resident(
    spec: Spec, folders: Sequence[str], settings: Settings, report: Callable[[int, int, str], None]
) -> Resident:
    """The spec's model, loaded once per process (built first, if it has to be); another model takes its place."""
    path = resolve_path(spec.model, folders)
    return kept(str(path.absolute()) if path.is_dir() else spec.model, spec.dtype, settings, report)


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
    def native(self) -> Iterator[Any]:
        """The model as it was loaded, whatever run is on it."""
        self.clear()
        yield self.model

    def clear(self) -> None:
        """Take the routers of the last run off."""
        if self._applied.handle is not None:
            self._applied.handle.restore()
        self._run_id, self._applied = None, Applied()

    def applied(self, context: Context, run: RunPlan) -> Applied:
        """Put a run's routers on the model (once; they stay until another run comes)."""
        if self._run_id != run.run_id:
            self.clear()
            manifest = existing(context.home, run.run_id)
            card = manifest.card["routing"] if manifest is not None else {}
            self._applied = self._apply(context, run, card)
            self._run_id = run.run_id
        return self._applied

    def _apply(self, context: Context, run: RunPlan, card: dict[str, Any]) -> Applied:
        if run.control == "non-routing-noise":
            return Applied(expand=final_state_noise(self.model, card["noise_scale"], run.samples, run.seed))
        if run.deterministic:
            return Applied()
        return Applied(handle=self.handle(context, run, card.get("layers")))

    def handle(self, context: Context, run: RunPlan, layers: list[int] | None = None) -> Handle:
        """A fresh active handle for a Bayesian run; the caller restores it."""
        folder = router_folder(context, run.method)
        if context.spec.routers.train is not None and folder is not None and run.control != "untrained":
            from pipelines.train import train_method

            train_method(context, self, run.method, folder, context.report)
        if folder is not None and run.control != "untrained":
            return vmoer.load_routers(self.model, folder, samples=run.samples, estimator=run.estimator, seed=run.seed)
        chosen = layers if layers is not None else self.layers_of(context, run.method)
        saved = {} if folder is None or context.spec.routers.train is not None else _saved_options(folder)
        options = {**saved, **context.spec.options.get(run.method, {})}
        return vmoer.bayesianize(
            self.model,
            method=run.method,
            layers=chosen,
            samples=run.samples,
            estimator=run.estimator,
            seed=run.seed,
            calibration=encode_batches(context, self, limit=32),
            **options,
        )

    def layers_of(self, context: Context, method: str) -> list[int]:
        """The layers a method's routers sit in: the checkpoint's, else as the spec asks (measured once)."""
        return list(context.remember(f"layers {method}", lambda: resolve_layers(context, self, method)))

    def describe(self, context: Context, run: RunPlan) -> dict[str, Any]:
        """What the manifest says about a run's routing: ``layers``, ``routers`` (their source) and ``card``."""
        if run.deterministic:
            return {"layers": [], "routers": None, "card": {}}
        layers = self.layers_of(context, run.method)
        if run.control == "non-routing-noise":
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
        card = {"layers": layers, "options": context.spec.options.get(run.method, {})}
        folder = router_folder(context, run.method)
        if folder is not None:
            card["checkpoint_sha256"] = _sha256(folder / "routers.safetensors")
        return {"layers": layers, "routers": source, "card": card}


def _saved_options(folder: Path) -> dict[str, Any]:
    try:
        options = json.loads((folder / "routers.json").read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError):
        raise SpecError(f"routers: {folder.name} is not a router checkpoint") from None
    return dict(options)


def _sha256(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return None
