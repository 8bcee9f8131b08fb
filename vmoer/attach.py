"""Put Bayesian routers on a Hugging Face MoE model: fresh ones, or those of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vmoer import checkpoint
from vmoer import layers as layer_selection
from vmoer.architectures import RouterSite
from vmoer.architectures.fingerprint import fingerprint
from vmoer.checkpoint import ROUTERS
from vmoer.devices import running_device
from vmoer.errors import CheckpointError, UnsupportedModelError, VmoerError
from vmoer.forward.hooks import Tap, tap_of
from vmoer.forward.modes import Batch, evaluation, random_tokens
from vmoer.handle import Handle, check_sampling
from vmoer.measure import leverage, susceptibility
from vmoer.rng import mix_int
from vmoer.routers.base import BayesianRouter, RouterShape, routers


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


def load_routers(
    model: nn.Module,
    folder: str | Path,
    *,
    samples: int | None = None,
    estimator: str | None = None,
    seed: int | None = None,
) -> Handle:
    """Active handle with the routers saved in ``folder``; the keyword arguments override what was saved with them.

    Refused with :class:`CheckpointError`: another family, size or layer, other native router weights, a missing, extra
    or misshapen tensor, an unreadable or newer file.
    """
    source = Path(folder)
    config = _read_config(source)
    cls = routers.get(config["method"])
    tap = tap_of(model)
    if config["architecture"] != type(tap.model).__name__:
        raise CheckpointError(
            f"Routers in {source} belong to a {config['architecture']}, not to this {type(tap.model).__name__}."
        )
    sites = {site.layer: site for site in tap.sites}
    checkpoint.check_adapter(source, config.get("adapter_sha256"), tap.adapter)
    native = fingerprint((site for site in tap.sites if site.layer in config["layers"]), tap.shifts)
    heads: dict[int, BayesianRouter] = {}
    for layer in config["layers"]:
        site = sites.get(layer)
        if site is None:
            raise CheckpointError(f"Routers in {source} need an MoE layer {layer}; this model has none there.")
        try:
            shape = RouterShape(**config["shapes"][str(layer)])
        except TypeError as error:
            raise CheckpointError(
                f"{source / ROUTERS.config}: the shape of layer {layer} is malformed ({error})."
            ) from error
        if shape != RouterShape(site.hidden_size, site.n_experts, site.top_k):
            raise CheckpointError(
                f"Layer {layer} of the checkpoint is for {shape.n_experts} experts, top-{shape.top_k}, hidden "
                f"{shape.hidden_size}; this model has {site.n_experts}, top-{site.top_k}, {site.hidden_size}."
            )
        if native[str(layer)] != config["native_routers_sha256"][str(layer)]:
            raise CheckpointError(
                f"The native router of layer {layer} is not the one these routers were trained beside: "
                f"{source} belongs to another model or revision."
            )
        try:
            options = {**cls.earlier_options, **config["options"]}
            heads[layer] = cls(shape, generator=torch.Generator().manual_seed(0), **options)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{source / ROUTERS.config}: these are not {config['method']} options ({error})."
            ) from error
    modules = nn.ModuleDict({str(layer): head for layer, head in heads.items()})
    modules.load_state_dict(checkpoint.read_tensors(source, ROUTERS, modules.state_dict(), config))
    for layer, head in heads.items():
        head.to(running_device(sites[layer].router))
    return Handle(
        tap,
        config["method"],
        heads,
        config["samples"] if samples is None else samples,
        estimator or config["estimator"],
        config["seed"] if seed is None else seed,
    )


def choose_layers(
    model: nn.Module, selection: layer_selection.LayerSelection, calibration: Sequence[Batch] | None
) -> list[int]:
    """Absolute layers meant by ``selection``, measured on ``calibration`` where the rule asks for it."""
    moe_layers = [site.layer for site in tap_of(model).sites]
    rule, _, _ = layer_selection.parse(selection)
    if rule not in layer_selection.MEASURED or calibration is None:
        return layer_selection.resolve(selection, moe_layers)
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


def _read_config(source: Path) -> dict[str, Any]:
    config = checkpoint.read_config(source, ROUTERS)
    layers = config["layers"]
    if not layers or any(type(layer) is not int for layer in layers):
        raise CheckpointError(f"{source / ROUTERS.config}: layers must be a list of whole numbers, not {layers!r}.")
    for key in ("shapes", "native_routers_sha256"):
        if config[key].keys() != set(map(str, layers)):
            raise CheckpointError(f"{source / ROUTERS.config}: {key} does not speak of exactly the layers {layers}.")
    return config
