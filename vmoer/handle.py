"""``bayesianize``: put a posterior on the routing decision of a Hugging Face MoE model, and take it off again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vmoer import layers as layer_selection
from vmoer.architectures import RouterSite
from vmoer.devices import running_device
from vmoer.errors import UnknownNameError, UnsupportedModelError, VmoerError
from vmoer.noise import mix_int
from vmoer.registry import unknown_name
from vmoer.routers.base import BayesianRouter, RouterShape, routers
from vmoer.tap import Mode, Tap, tap_of

ESTIMATORS = ("in-router", "closed-form", "predictive")

Batch = Mapping[str, Tensor]


class Handle:
    """What :func:`bayesianize` returns: the Bayesian routers of one model, and the way back.

    ``routers`` maps the absolute layer (as a string) to its :class:`BayesianRouter`. While the handle is active every
    forward pass of the model routes through them: averaged over ``samples`` draws with the ``in-router`` estimator,
    by the same average without sampling with ``closed-form``, by one draw per token (sample 0) with ``predictive``;
    :mod:`vmoer.scoring` carries more draws and averages answers.
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
        """Route through the Bayesian routers (done by :func:`bayesianize`)."""
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
        from vmoer.checkpoint import save_routers

        return save_routers(self, folder, dtype=dtype)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def __repr__(self) -> str:
        state = "active" if self.active else "restored"
        return (
            f"Handle({self.method}, {self.estimator}, layers {layer_selection.describe(self.layers)}, "
            f"samples={self.samples}, {state})"
        )


def bayesianize(
    model: nn.Module,
    method: str = "fcvr",
    layers: layer_selection.LayerSelection = "all",
    samples: int = 35,
    estimator: str = "in-router",
    seed: int = 0,
    calibration: Iterable[Batch] | None = None,
    **options: Any,
) -> Handle:
    """Active :class:`Handle` with freshly initialised routers of ``method`` in the chosen layers of ``model``.

    The model's parameters are neither changed nor frozen. ``layers``: ``"all"``, a list of absolute indices,
    ``"last:n"``, or, measured on ``calibration`` (batches of ``input_ids`` and ``attention_mask``),
    ``"susceptible:n"``, ``"leverage:n"``, ``"auto"``. Without ``calibration`` the routers' logit spread is measured on
    random tokens. ``options`` go to the method (e.g. ``prior_std``). Raises :class:`VmoerError` subclasses whose
    message is one sentence.
    """
    cls = routers.get(method)
    check_sampling(samples, estimator)
    tap = tap_of(model)
    if tap.heads:
        raise UnsupportedModelError(
            "This model already carries Bayesian routers; call restore() on their handle first."
        )
    if tap.architecture.bayesian_refusal and method != "deterministic":
        raise UnsupportedModelError(tap.architecture.bayesian_refusal)
    batches = list(calibration) if calibration is not None else None
    chosen = choose_layers(tap.model, layers, batches)
    spread = logit_spread(tap, batches) if cls.trainable else {}
    heads: dict[int, BayesianRouter] = {}
    for site in tap.sites:
        if site.layer not in chosen:
            continue
        generator = torch.Generator().manual_seed(mix_int(seed, site.layer) & ((1 << 63) - 1))
        shape = RouterShape(site.hidden_size, site.n_experts, site.top_k)
        try:
            head = cls(shape, generator=generator, logit_scale=spread.get(site.layer, 1.0), **options)
        except (TypeError, ValueError) as error:
            raise VmoerError(f"Method {method!r} with options {options}: {error}") from error
        heads[site.layer] = head.to(running_device(site.router))
    return Handle(tap, method, heads, samples, estimator, seed)


def check_sampling(samples: object, estimator: str) -> None:
    """Refuse an unknown estimator and anything but a whole number of samples."""
    if estimator not in ESTIMATORS:
        raise UnknownNameError(unknown_name("estimator", estimator, list(ESTIMATORS)))
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise VmoerError(
            f"samples must be a whole number of 1 or more, not {samples!r}; for none use method='deterministic'."
        )


def choose_layers(
    model: nn.Module, selection: layer_selection.LayerSelection, calibration: Sequence[Batch] | None
) -> list[int]:
    """Absolute layers meant by ``selection``, measured on ``calibration`` where the rule asks for it."""
    moe_layers = [site.layer for site in tap_of(model).sites]
    rule, _, _ = layer_selection.parse(selection)
    if rule not in layer_selection.MEASURED or calibration is None:
        return layer_selection.resolve(selection, moe_layers)
    from vmoer import leverage, susceptibility

    jaccard = nll_rise = None
    if rule in ("susceptible", "auto"):
        stability = susceptibility.measure(model, calibration, gammas=(0.01,))
        jaccard = [float(value) for value in stability.jaccard[0]]
    if rule in ("leverage", "auto"):
        nll_rise = leverage.token_nll_rise(model, calibration)
    return layer_selection.choose(selection, moe_layers, jaccard=jaccard, nll_rise=nll_rise)


def logit_spread(tap: Tap, batches: Sequence[Batch] | None) -> dict[int, float]:
    """Per layer, the mean over real tokens of the standard deviation of the native logits over experts."""
    totals: dict[int, Tensor] = {}
    counts: dict[int, Tensor] = {}

    def collect(site: RouterSite, decision: Any, frame: Any) -> None:
        spread = decision.base_logits.float().std(-1, correction=0)
        real = frame.mask.reshape(-1).to(spread.device)
        totals[site.layer] = totals.get(site.layer, 0.0) + (spread * real).sum()
        counts[site.layer] = counts.get(site.layer, 0) + real.sum()

    with evaluation(tap.model), tap.listening(collect), torch.no_grad():
        for batch in batches if batches is not None else [random_tokens(tap.model)]:
            tap.model(**batch)
    return {layer: max(float(totals[layer] / counts[layer]), 1e-6) for layer in totals}


def random_tokens(model: nn.Module, rows: int = 4, length: int = 64) -> dict[str, Tensor]:
    """A batch of random token ids (own generator), for measurements that need no meaning."""
    config: Any = model.config
    generator = torch.Generator().manual_seed(0)
    length = min(length, getattr(config, "max_position_embeddings", length))
    ids = torch.randint(0, config.vocab_size, (rows, length), generator=generator)
    device = running_device(model)
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
