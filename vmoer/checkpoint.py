"""Router checkpoints: ``routers.safetensors`` beside ``routers.json``, refused on any mismatch, by name.

The JSON holds what the weights mean: method, layers, sizes, options, samples, estimator, and the fingerprint of the
native routers they were trained beside (their prior mean). Nothing falls back silently.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vmoer.architectures.fingerprint import fingerprint
from vmoer.devices import running_device
from vmoer.errors import CheckpointError
from vmoer.routers.base import BayesianRouter, RouterShape, routers
from vmoer.tap import tap_of

if TYPE_CHECKING:
    from vmoer.handle import Handle

FORMAT = 1
WEIGHTS, CONFIG = "routers.safetensors", "routers.json"

_KEYS = {
    "method",
    "estimator",
    "samples",
    "seed",
    "architecture",
    "layers",
    "shapes",
    "options",
    "native_routers_sha256",
}


def save_routers(handle: Handle, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the checkpoint of ``handle`` into ``folder`` (made if absent); each file appears whole or not at all."""
    from safetensors.torch import save

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in handle.routers.state_dict().items():
        scalar = tensor.dim() == 0  # scales keep full precision
        tensors[name] = tensor.detach().to("cpu", torch.float32 if scalar else dtype).contiguous()
    config = {
        "format": FORMAT,
        "method": handle.method,
        "estimator": handle.estimator,
        "samples": handle.samples,
        "seed": handle.seed,
        "architecture": type(handle.model).__name__,
        "layers": handle.layers,
        "shapes": {str(layer): handle.head(layer).shape.__dict__ for layer in handle.layers},
        "options": handle.head(handle.layers[0]).options(),
        "native_routers_sha256": fingerprint(handle.sites, handle.tap.shifts),
        "adapter_sha256": handle.tap.adapter,
    }
    replace_file(target / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    replace_file(target / CONFIG, (json.dumps(config, indent=1) + "\n").encode())
    return target


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
    from vmoer.handle import Handle

    source = Path(folder)
    config = _read_config(source)
    cls = routers.get(config["method"])
    tap = tap_of(model)
    if config["architecture"] != type(tap.model).__name__:
        raise CheckpointError(
            f"Routers in {source} belong to a {config['architecture']}, not to this {type(tap.model).__name__}."
        )
    sites = {site.layer: site for site in tap.sites}
    check_adapter(source, config.get("adapter_sha256"), tap.adapter)
    native = fingerprint((site for site in tap.sites if site.layer in config["layers"]), tap.shifts)
    heads: dict[int, BayesianRouter] = {}
    for layer in config["layers"]:
        site = sites.get(layer)
        if site is None:
            raise CheckpointError(f"Routers in {source} need an MoE layer {layer}; this model has none there.")
        try:
            shape = RouterShape(**config["shapes"][str(layer)])
        except TypeError as error:
            raise CheckpointError(f"{source / CONFIG}: the shape of layer {layer} is malformed ({error}).") from error
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
            heads[layer] = cls(shape, generator=torch.Generator().manual_seed(0), **config["options"])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source / CONFIG}: these are not {config['method']} options ({error}).") from error
    _load_weights(nn.ModuleDict({str(layer): head for layer, head in heads.items()}), source)
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


def _read_config(source: Path) -> dict[str, Any]:
    try:
        config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"No router checkpoint in {source}: {CONFIG} is missing.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source / CONFIG} cannot be read: {error}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise CheckpointError(f"{source / CONFIG} is not a router checkpoint.")
    if config["format"] > FORMAT:
        raise CheckpointError(f"{source} was written by a newer version (format {config['format']}, known {FORMAT}).")
    missing = _KEYS - config.keys()
    if missing:
        raise CheckpointError(f"{source / CONFIG} lacks {', '.join(sorted(missing))}.")
    layers = config["layers"]
    if not isinstance(layers, list) or not layers or any(type(layer) is not int for layer in layers):
        raise CheckpointError(f"{source / CONFIG}: layers must be a list of whole numbers, not {layers!r}.")
    for key in ("shapes", "native_routers_sha256"):
        if not isinstance(config[key], dict) or config[key].keys() != set(map(str, layers)):
            raise CheckpointError(f"{source / CONFIG}: {key} does not speak of exactly the layers {layers}.")
    return config


def _load_weights(modules: nn.ModuleDict, source: Path) -> None:
    from safetensors import SafetensorError

    from vmoer.safefile import load_file

    try:
        tensors = load_file(source / WEIGHTS)
    except FileNotFoundError:
        raise CheckpointError(f"{source / WEIGHTS} is missing.") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{source / WEIGHTS} is damaged: {error}.") from error
    expected = modules.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has an unexpected {extra[0]}"
        raise CheckpointError(f"{source / WEIGHTS} {what}.")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{source / WEIGHTS}: {name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}."
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{source / WEIGHTS}: {name} holds values that are not finite.")
    modules.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})


def check_adapter(source: Path, trained_beside: str | None, applied: str | None) -> None:
    """Refuse weights that were trained beside another adapter than the one on the model, by name."""
    if trained_beside != applied:
        ours, theirs = (f"adapter {sha[:12]}" if sha else "no adapter" for sha in (applied, trained_beside))
        raise CheckpointError(f"{source} was trained beside {theirs}; this model carries {ours}.")


def replace_file(path: Path, content: bytes) -> None:
    """Write ``path`` whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
