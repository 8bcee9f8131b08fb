"""The model that stays in memory while a worker lives, and how a run puts its routers on it and takes them off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

import vmoer
from pipelines.model.base import Base
from pipelines.settings import Settings
from vmoer.architectures import RouterSite
from vmoer.forward.hooks import tap_of
from vmoer.handle import Handle
from vmoer.measure.noise_controls import MoeNoise
from vmoer.models.catalog import model_identity

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
    logging.disable_progress_bar()
    model, tokenizer = vmoer.load_model(source, **arguments)
    # what is too long is counted, and refused or cut, by us; its own warning would promise errors
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return model, tokenizer


class Resident:
    """A loaded model; at most one run's routers are on it at a time."""

    def __init__(self, model: Any, tokenizer: Any, source: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.source = source
        self.base = Base(model)
        self._holder: object = None
        self._applied: Applied | None = None

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
        """Return what decides the last bits: attention and expert kernels, threads, and how weights are stored."""
        config = self.model.config
        stored = getattr(self.model, "stored_as", None)
        return {
            **({"weights": stored} if stored else {}),
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
        """Yield the model as it was loaded: without Bayesian routers, adapter and MAP routers."""
        self.put(None, None)
        yield self.model

    def put(self, adapter: Path | None, map_routers: Path | None) -> None:
        """Take the routers of the last run off, and have exactly this adapter and these MAP routers on the model."""
        self.clear()
        self.base.put(adapter, map_routers)

    def clear(self) -> None:
        """Take the routers of the last run off; the base stays until another is asked for."""
        if self._applied is not None and self._applied.handle is not None:
            self._applied.handle.restore()
        self._holder = self._applied = None

    def keep(self, holder: object, applied: Applied) -> None:
        """Leave the routers of a run on the model until :meth:`clear`; ``holder`` says whose they are."""
        self._holder, self._applied = holder, applied

    def applied(self, holder: object) -> Applied | None:
        """Return what ``holder`` has on the model; ``None`` when something else is on it."""
        return self._applied if self._holder == holder else None
