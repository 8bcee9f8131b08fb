"""The one place where this library touches a model: forward hooks on its decoder stack and its native routers.

Nothing in the module tree is replaced, so ``state_dict`` keys, ``isinstance`` checks, peft wrappers and transformers'
own output capturing keep working, and taking the hooks off is taking everything off. The router hook runs first among
a router's hooks, so that ``output_router_logits=True`` reports the logits that routed. A pass in which a hook that is
needed did not run is refused: its outputs would be the native ones, and its recording empty.

A *frame* describes the forward pass in progress (which tokens are real, where they stand, their noise keys). It exists
only while the decoder stack runs, also when that ends in an exception.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from vmoer.architectures import Architecture, RouterSite, architecture_of, unwrap
from vmoer.errors import UnsupportedModelError
from vmoer.forward.cache_history import copy_history, remember_new, select_rows
from vmoer.forward.decision import Decision, decide, native
from vmoer.forward.frame import Frame, frame_of
from vmoer.forward.silence import (
    refuse_capture,
    refuse_compiled,
    refuse_replica,
    refuse_silent_layers,
    refuse_silent_model,
    refuse_wrapper,
)
from vmoer.rng import TokenNoise, mix, mix_int
from vmoer.routers.base import BayesianRouter


@dataclass
class Mode:
    """How a forward pass routes: averaged over ``samples`` draws, in closed form with 0, or with ``None`` by one draw
    per token, of sample number ``sample_ids`` per row.

    With ``common`` the draws depend on a token's position alone and not on what the prompt says, so that two prompts
    that differ in a word differ by that word and not by luck.
    """

    samples: int | None
    seed: int
    sample_ids: Tensor | None = None
    stream: int = 0
    common: bool = False


Sink = Callable[[RouterSite, Decision, Frame], None]
Override = Callable[[RouterSite, Decision, Frame], tuple[Tensor, Tensor]]


@dataclass
class Tap:
    """Hooks of one model and what they serve: Bayesian heads, recorders, and interventions of experiments."""

    model: nn.Module
    architecture: Architecture
    sites: list[RouterSite]
    heads: dict[int, BayesianRouter] = field(default_factory=dict)
    mode: Mode | None = None
    sinks: list[Sink] = field(default_factory=list)
    overrides: dict[int, Override] = field(default_factory=dict)
    #: fine-tuned routers: ΔW per layer, added to the native logits in float32 (:mod:`vmoer.training.map_routers`)
    shifts: dict[int, nn.Linear] = field(default_factory=dict)
    #: SHA-256 of the adapter on the model (:mod:`vmoer.training.adapter`), which routers are trained beside
    adapter: str | None = None
    frame: Frame | None = None
    #: layers that passes leave out on purpose (:meth:`leaving_out`)
    left_out: set[int] = field(default_factory=set)
    _heard: list[int] = field(default_factory=list)
    #: threads whose pass of the whole model has reached the decoder stack
    _reached: set[int] = field(default_factory=set)
    _hooks: list[Any] = field(default_factory=list)
    _owner: int | None = None

    @property
    def in_use(self) -> bool:
        return bool(self.heads or self.sinks or self.overrides or self.shifts)

    def refresh(self) -> None:
        """Install the hooks when something needs them, remove them when nothing does."""
        if self.in_use and not self._hooks:
            self._install()
        elif not self.in_use and self._hooks:
            for hook in self._hooks:
                hook.remove()
            self._hooks.clear()

    def _install(self) -> None:
        refuse_compiled(self.model)
        backbone = self.architecture.backbone(self.model)
        bind = inspect.signature(type(backbone).forward).bind_partial
        self._hooks.append(
            backbone.register_forward_pre_hook(
                lambda module, args, kwargs: self._enter(
                    module, backbone, {**kwargs, **bind(module, *args, **kwargs).arguments}
                ),
                with_kwargs=True,
            )
        )
        self._hooks.append(backbone.register_forward_hook(lambda *_: self._leave(), always_call=True, prepend=True))
        self._hooks.append(backbone.register_forward_hook(lambda _m, _a, output: self._finish(output), prepend=True))
        if backbone is not self.model:
            self._hooks.append(self.model.register_forward_pre_hook(lambda *_: self._begin()))
            self._hooks.append(self.model.register_forward_hook(lambda *_: self._check_model()))
        for site in self.sites:
            self._hooks.append(
                site.router.register_forward_hook(
                    lambda _module, args, output, site=site: self._route(site, args[0], output), prepend=True
                )
            )

    def _begin(self) -> None:
        self._reached.discard(threading.get_ident())

    def _check_model(self) -> None:
        if threading.get_ident() not in self._reached:
            refuse_silent_model(self.model)

    def _finish(self, output: Any) -> None:
        """After a whole pass: every router whose decision somebody needs has run, once; a new cache is remembered."""
        assert self.frame is not None
        remember_new(output, self.frame.sums)
        wanted = self.heads.keys() | self.overrides.keys() | self.shifts.keys()
        sites = [site for site in self.sites if self.sinks or site.layer in wanted]
        silent = [site for site in sites if site.layer not in self._heard and site.layer not in self.left_out]
        if silent:
            refuse_silent_layers(self.model, self.architecture, silent)
        if len(set(self._heard)) < len(self._heard):
            twice = next(layer for layer in self._heard if self._heard.count(layer) > 1)
            raise UnsupportedModelError(
                f"The router of layer {twice} ran more than once in a forward pass; which decision counts is not known."
            )

    def _enter(self, module: nn.Module, backbone: nn.Module, arguments: dict[str, Any]) -> None:
        refuse_replica(module, backbone)
        if self._owner is not None:
            raise UnsupportedModelError(
                "This model is already in a forward pass: one tapped model serves one thread at a time."
            )
        self._owner = threading.get_ident()
        if self.heads and backbone.training and getattr(backbone, "gradient_checkpointing", False):
            raise UnsupportedModelError(
                "Gradient checkpointing re-runs blocks outside the forward pass; "
                "call model.activation_checkpointing_disable() before training Bayesian routers."
            )
        self._reached.add(self._owner)
        self._heard.clear()
        config: Any = self.model.config
        self.frame = frame_of(arguments, config.get_text_config(), self.architecture.packs)
        refuse_capture(self.frame.mask.device)

    def _leave(self) -> None:
        # also called when _enter refused another thread, whose frame must survive
        if self._owner == threading.get_ident():
            self.frame = None
            self._owner = None

    def select_running(self, cache: Any, index: Tensor) -> None:
        """Follow rows selected layer by layer: row i continues what row ``index[i]`` had read."""
        select_rows(cache, index)

    def copy_running(self, cache: Any, fork: Any) -> None:
        """``fork``, a shallow copy of ``cache``, continues on its own what ``cache`` had read."""
        copy_history(cache, fork)

    def _route(self, site: RouterSite, hidden: Tensor, output: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        frame = self.frame
        if frame is None:
            return None
        self._heard.append(site.layer)
        logits, weight, index = self._base(site, hidden, output)
        if logits.shape[0] != frame.mask.numel():
            raise UnsupportedModelError(
                f"Router {site.path} saw {logits.shape[0]} tokens in a forward pass of {frame.mask.numel()}."
            )
        head = self.heads.get(site.layer)
        if head is None or self.mode is None:
            decision = native(logits, weight, index)
        else:
            decision = self._decide(site, head, hidden, (logits, weight, index), frame, self.mode)
        decision.hidden = hidden
        override = self.overrides.get(site.layer)
        if override is not None:
            decision.weight, decision.index = override(site, decision, frame)
        for sink in self.sinks:
            sink(site, decision, frame)
        return self.architecture.pack(site, decision.logits.to(logits.dtype), decision.weight, decision.index)

    def _base(self, site: RouterSite, hidden: Tensor, output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """What the router decides before any posterior: the native triple, or that of a fine-tuned router."""
        logits, weight, index = self.architecture.read(site, hidden, output)
        shift = self.shifts.get(site.layer)
        if shift is None:
            return logits, weight, index
        if shift.weight.device != hidden.device:
            shift.to(hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            tuned = logits.float() + shift(hidden.reshape(-1, hidden.shape[-1]).float())
            index = self.architecture.select(site, tuned)
            return tuned, self.architecture.gates(site, tuned, index).to(weight.dtype), index

    def _decide(
        self,
        site: RouterSite,
        head: BayesianRouter,
        hidden: Tensor,
        base: tuple[Tensor, Tensor, Tensor],
        frame: Frame,
        mode: Mode,
    ) -> Decision:
        logits = base[0].float()
        if head.logit_scale.device != hidden.device:
            head.to(hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            posterior = head.posterior(hidden.reshape(-1, hidden.shape[-1]).float(), logits)
            return decide(
                self.architecture,
                site,
                posterior,
                (logits, *base[1:]),
                self.noise(site, frame, mode),
                mode.samples,
            )

    def native_logits(self, site: RouterSite) -> Callable[[Tensor], Tensor]:
        """The logits before any posterior (fine-tuned or native) as a function of the input ``[n, hidden]`` alone."""

        def logits(hidden: Tensor) -> Tensor:
            inputs = hidden.to(next(site.router.parameters()).dtype)
            return self._base(site, inputs, self._ask(site, inputs))[0].float()

        return logits

    def _ask(self, site: RouterSite, hidden: Tensor) -> tuple[Tensor, ...]:
        """Return the native router's output; an adapter calls the router within it, whose hook must keep still."""
        frame, self.frame = self.frame, None
        try:
            return self.architecture.ask(site, hidden)
        finally:
            self.frame = frame

    def reroute(self, site: RouterSite, hidden: Tensor, frame: Frame) -> Decision:
        """The decision this router would take for another input ``[tokens, hidden]``, with the same noise."""
        base = self._base(site, hidden, self._ask(site, hidden))
        head = self.heads.get(site.layer)
        if head is None or self.mode is None:
            return native(*base)
        return self._decide(site, head, hidden, base, frame, self.mode)

    def noise(self, site: RouterSite, frame: Frame, mode: Mode) -> TokenNoise:
        """Noise of one router call: keyed by seed, stream, layer, token and (per row) sample number."""
        if not frame.known and not mode.common:
            raise UnsupportedModelError(
                "This cache holds tokens that were read while nothing was sampled or recorded, so the draws of a full "
                "pass cannot be continued: fill the cache with the routers on, or start without it."
            )
        keys, sample = mix(frame.position + 1) if mode.common else frame.keys, None
        if mode.samples is None:
            ids = keys.new_zeros(1) if mode.sample_ids is None else mode.sample_ids.to(keys.device).long()
            sample = ids[:, None].expand_as(keys).reshape(-1)
            keys = mix(keys + mix(ids + 1)[:, None])
        router = mix_int(mode.seed, mode.stream, site.layer)
        return TokenNoise(mix(keys.reshape(-1) ^ router), router, sample)

    @contextmanager
    def using(self, **changes: Any) -> Iterator[None]:
        """Temporarily change fields of the mode (samples, sample_ids, seed, stream)."""
        previous = self.mode
        if previous is not None:
            self.mode = Mode(**{**previous.__dict__, **changes})
        try:
            yield
        finally:
            self.mode = previous

    @contextmanager
    def listening(self, sink: Sink) -> Iterator[None]:
        """Send every decision to ``sink`` inside the block."""
        self.sinks.append(sink)
        self.refresh()
        try:
            yield
        finally:
            self.sinks.remove(sink)
            self.refresh()

    @contextmanager
    def leaving_out(self, layers: set[int]) -> Iterator[None]:
        """Inside the block passes may skip these layers; a pass that skips another is refused."""
        before, self.left_out = self.left_out, self.left_out | layers
        try:
            yield
        finally:
            self.left_out = before

    @contextmanager
    def overriding(self, overrides: dict[int, Override]) -> Iterator[None]:
        """Replace gate weights and expert indices of the given layers inside the block (interventions)."""
        taken = sorted(self.overrides.keys() & overrides.keys())
        if taken:
            raise UnsupportedModelError(f"Layers {taken} already carry an intervention; end that one first.")
        self.overrides.update(overrides)
        self.refresh()
        try:
            yield
        finally:
            for layer in overrides:
                del self.overrides[layer]
            self.refresh()


#: live taps by ``id`` of their decoder stack; a tap holds its model, so an id cannot be reused while its entry lives
_taps: WeakValueDictionary[int, Tap] = WeakValueDictionary()


def tap_of(model: nn.Module) -> Tap:
    """The one tap of ``model``, shared by everybody who holds it; a model without known routers is refused."""
    if hasattr(model, "_orig_mod"):
        refuse_compiled(model)
    refuse_wrapper(model)
    base = unwrap(model)
    known = next((tap for tap in _taps.values() if tap.model is base), None)
    if known is None or not known.in_use:
        refuse_compiled(base)
    if known is not None:
        return known
    architecture = architecture_of(base)
    decoder = id(architecture.backbone(base))  # a model and its decoder alone are one place
    known = _taps.get(decoder)
    if known is not None and known.in_use:
        raise UnsupportedModelError(
            f"The decoder of this {type(base).__name__} already carries routers or a recorder, put on as part of a "
            f"{type(known.model).__name__}; use that one."
        )
    sites = architecture.sites(base)
    if not sites:
        raise UnsupportedModelError(f"{type(base).__name__} has no MoE layer: every block is dense.")
    tap = _taps[decoder] = Tap(base, architecture, sites)
    return tap
