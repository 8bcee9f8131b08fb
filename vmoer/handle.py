"""The Bayesian routers of one model: which are on, how they sample, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from vmoer import checkpoint
from vmoer import layers as layer_selection
from vmoer.architectures import RouterSite
from vmoer.architectures.fingerprint import fingerprint
from vmoer.errors import UnknownNameError, UnsupportedModelError, VmoerError
from vmoer.forward.hooks import Mode, Tap
from vmoer.forward.html import facts_html
from vmoer.registry import unknown_name
from vmoer.routers.base import BayesianRouter

ESTIMATORS = ("in-router", "closed-form", "predictive")


class Handle:
    """What :func:`vmoer.bayesianize` returns: the Bayesian routers of one model, and the way back.

    ``routers`` maps the absolute layer (as a string) to its :class:`BayesianRouter`. While the handle is active every
    forward pass of the model routes through them: averaged over ``samples`` draws with the ``in-router`` estimator,
    by the same average without sampling with ``closed-form``, by one draw per token (sample 0) with ``predictive``;
    :mod:`vmoer.scoring.options` carries more draws and averages answers.
    """

    def __init__(
        self, tap: Tap, method: str, heads: dict[int, BayesianRouter], samples: int, estimator: str, seed: int
    ) -> None:
        check_sampling(samples, estimator)
        first = next(iter(heads.values()))
        if estimator == "closed-form" and not first.closed_form:
            raise VmoerError(f"Method {method!r} has no closed form to average in; use in-router or predictive.")
        if estimator == "closed-form" and not tap.architecture.softmax:
            raise UnsupportedModelError(
                f"The closed form is the expectation of a softmax, but {type(tap.model).__name__} scores each expert "
                "by a sigmoid; use in-router or predictive."
            )
        self.tap = tap
        self.method = method
        self.routers = nn.ModuleDict({str(layer): head for layer, head in heads.items()})
        self.samples = samples
        self.estimator = estimator
        self.seed = seed
        self.active = False
        for site in self.sites:
            self.head(site.layer).bind(tap.native_logits(site))
        self.enable()

    @property
    def model(self) -> nn.Module:
        return self.tap.model

    @property
    def layers(self) -> list[int]:
        """Absolute indices of the layers that carry a Bayesian router."""
        return [int(layer) for layer in self.routers]

    @property
    def sites(self) -> list[RouterSite]:
        """The native routers beside this handle's heads, in layer order."""
        return [site for site in self.tap.sites if str(site.layer) in self.routers]

    def head(self, layer: int) -> BayesianRouter:
        """The Bayesian router of one layer."""
        head = self.routers[str(layer)]
        assert isinstance(head, BayesianRouter)
        return head

    @property
    def support(self) -> int | None:
        """How many different samples there are (members of an ensemble); ``None`` when there is no end to them."""
        return self.head(self.layers[0]).support

    def parameters(self) -> Iterator[nn.Parameter]:
        """Trainable parameters of all Bayesian routers."""
        return self.routers.parameters()

    def enable(self) -> None:
        """Route through the Bayesian routers (done by :func:`vmoer.bayesianize`)."""
        if self.tap.heads:
            raise UnsupportedModelError(
                "This model already carries Bayesian routers; call restore() on their handle first."
            )
        self.tap.heads.update({layer: self.head(layer) for layer in self.layers})
        samples = {"in-router": self.samples, "closed-form": 0, "predictive": None}[self.estimator]
        self.tap.mode = Mode(samples=samples, seed=self.seed)
        self.tap.refresh()
        self.active = True

    def restore(self) -> None:
        """Give the model back: outputs and ``state_dict`` keys are bit-identical to before. Safe to call twice."""
        if self.active:
            self.tap.heads.clear()
            self.tap.mode = None
            self.tap.refresh()
            self.active = False

    @contextmanager
    def deterministic(self) -> Iterator[None]:
        """Route natively inside the block."""
        mode, self.tap.mode = self.tap.mode, None
        try:
            yield
        finally:
            self.tap.mode = mode

    @contextmanager
    def only(self, layers: Sequence[int]) -> Iterator[None]:
        """Inside the block just these layers route through their Bayesian routers, the others natively."""
        heads = dict(self.tap.heads)
        for layer in self.layers:
            if layer not in layers:
                del self.tap.heads[layer]
        try:
            yield
        finally:
            self.tap.heads.clear()
            self.tap.heads.update(heads)

    @contextmanager
    def one_draw(self, sample_ids: Tensor | None = None, stream: int = 0) -> Iterator[None]:
        """Inside the block each token takes one draw; ``sample_ids [batch]`` numbers the sample of each row."""
        with self.tap.using(samples=None, sample_ids=sample_ids, stream=stream):
            yield

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block routing is averaged inside the routers over ``samples`` draws, whatever the estimator."""
        with self.tap.using(samples=self.samples, sample_ids=None):
            yield

    def scale_noise(self, factor: float) -> None:
        """Set every router's ``noise_scale`` (σ multiplier when sampling; 0 = posterior mean)."""
        if not factor >= 0:
            raise VmoerError(f"The noise scale must be 0 or more, not {factor}.")
        for layer in self.layers:
            self.head(layer).noise_scale.fill_(factor)

    def set_prior_covariance(self) -> None:
        """Give every posterior the prior's covariance and leave its mean; a method without one is refused."""
        for layer in self.layers:
            try:
                self.head(layer).set_prior_covariance()
            except ValueError as error:
                raise VmoerError(str(error)) from None

    @contextmanager
    def without_noise(self) -> Iterator[None]:
        """Route by the posterior mean inside the block (noise scale 0), then as before."""
        before = {layer: float(self.head(layer).noise_scale) for layer in self.layers}
        self.scale_noise(0.0)
        try:
            yield
        finally:
            for layer, factor in before.items():
                self.head(layer).noise_scale.fill_(factor)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write ``routers.safetensors`` and ``routers.json`` into ``folder``; returns the folder."""
        tensors = {}
        for name, tensor in self.routers.state_dict().items():
            scalar = tensor.dim() == 0  # scales keep full precision
            tensors[name] = tensor.detach().to("cpu", torch.float32 if scalar else dtype).contiguous()
        config = {
            "method": self.method,
            "estimator": self.estimator,
            "samples": self.samples,
            "seed": self.seed,
            "architecture": type(self.model).__name__,
            "layers": self.layers,
            "shapes": {str(layer): self.head(layer).shape.__dict__ for layer in self.layers},
            "options": self.head(self.layers[0]).options(),
            "native_routers_sha256": fingerprint(self.sites, self.tap.shifts),
            "adapter_sha256": self.tap.adapter,
        }
        return checkpoint.write(folder, checkpoint.ROUTERS, config, checkpoint.pack(tensors))

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        facts = {
            "model": type(self.model).__name__,
            "method": self.method,
            "estimator": self.estimator,
            "layers": layer_selection.describe(self.layers),
            "samples": self.samples,
            "seed": self.seed,
            "parameters": f"{sum(parameter.numel() for parameter in self.parameters()):,}",
            "state": "active" if self.active else "restored",
        }
        return facts_html("Bayesian routers", facts)

    def __repr__(self) -> str:
        state = "active" if self.active else "restored"
        return (
            f"Handle({self.method}, {self.estimator}, layers {layer_selection.describe(self.layers)}, "
            f"samples={self.samples}, {state})"
        )


def check_sampling(samples: object, estimator: str) -> None:
    """Refuse an unknown estimator and anything but a whole number of samples."""
    if estimator not in ESTIMATORS:
        raise UnknownNameError(unknown_name("estimator", estimator, list(ESTIMATORS)))
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise VmoerError(
            f"samples must be a whole number of 1 or more, not {samples!r}; for none use method='deterministic'."
        )
