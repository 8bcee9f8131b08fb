"""Read and write what was trained: safetensors beside a JSON file, refused on any mismatch, by name.

The JSON holds what the weights mean and the fingerprint of the native routers they were trained beside. Nothing falls
back silently. What is trained (routers, fine-tuned routers, an adapter) is a :class:`Kind` each.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vmoer.errors import CheckpointError
from vmoer.models import safetensors_check as safefile
from vmoer.models.weights_check import differences

#: 2 has checksums of the JSON and of the weights
FORMAT = 2


@dataclass(frozen=True)
class Kind:
    """One kind of checkpoint: its name and article in sentences, its two files, and the keys its JSON must have."""

    name: str
    article: str
    weights: str
    config: str
    keys: Mapping[str, type]


ROUTERS = Kind(
    "router checkpoint",
    "a",
    "routers.safetensors",
    "routers.json",
    {
        "method": str,
        "estimator": str,
        "samples": int,
        "seed": int,
        "architecture": str,
        "layers": list,
        "shapes": dict,
        "options": dict,
        "native_routers_sha256": dict,
    },
)
MAP_ROUTERS = Kind(
    "checkpoint of MAP routers",
    "a",
    "map.safetensors",
    "map.json",
    {"architecture": str, "layers": list, "native_routers_sha256": dict},
)
ADAPTER = Kind(
    "adapter",
    "an",
    "adapter_model.safetensors",
    "adapter.json",
    {
        "architecture": str,
        "rank": int,
        "alpha": int,
        "targets": list,
        "weights_sha256": str,
        "native_routers_sha256": dict,
    },
)


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of a safetensors file."""
    return save(dict(tensors), metadata={"format": "pt"})


def write(folder: str | Path, kind: Kind, config: Mapping[str, Any], content: bytes) -> Path:
    """Write a checkpoint into ``folder`` (made if absent); each file appears whole or not at all."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    replace_file(target / kind.weights, content)
    described = signed({"format": FORMAT, **config, "weights_sha256": hashlib.sha256(content).hexdigest()})
    replace_file(target / kind.config, (json.dumps(described, indent=1) + "\n").encode())
    return target


def signed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a checkpoint with the SHA-256 of its other values."""
    values = {key: value for key, value in config.items() if key != "sha256"}
    return {**values, "sha256": hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()}


def read_config(source: Path, kind: Kind) -> dict[str, Any]:
    """Return the JSON of a checkpoint; refuse one that is missing, damaged, newer or of another kind."""
    path = source / kind.config
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"No {kind.name} in {source}: {kind.config} is missing.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if not isinstance(config, dict) or type(config.get("format")) is not int:
        raise CheckpointError(f"{path} is not {kind.article} {kind.name}.")
    if config["format"] > FORMAT:
        raise CheckpointError(f"{source} was written by a newer version (format {config['format']}, known {FORMAT}).")
    if config["format"] < 1 or (config["format"] > 1 and signed(config) != config):
        raise CheckpointError(f"{path} is not as it was written: its SHA-256 differs.")
    missing = kind.keys.keys() - config.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}.")
    for key, wanted in kind.keys.items():
        if type(config[key]) is not wanted:
            raise CheckpointError(f"{path}: {key} must be {_TYPES[wanted]}, not {config[key]!r}.")
    return config


def read_tensors(
    source: Path, kind: Kind, expected: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the weights of a checkpoint as float32; refuse other names, shapes or content than ``expected``.

    ``config`` is what :func:`read_config` has read beside them.
    """
    path = source / kind.weights
    content = _checked(path, kind, config)
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    if wrong := differences(tensors, expected):
        raise CheckpointError(f"{path} does not hold what {kind.config} speaks of: {wrong}.")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite.")
    return {name: tensor.float() for name, tensor in tensors.items()}


def check(source: Path) -> None:
    """Refuse a folder whose checkpoint is not as it was written; one of format 1 has its weights' header checked."""
    kind = next((kind for kind in (ROUTERS, MAP_ROUTERS, ADAPTER) if (source / kind.config).is_file()), None)
    if kind is None:
        raise CheckpointError(
            f"No checkpoint in {source}: it has neither of {ROUTERS.config}, {MAP_ROUTERS.config} and {ADAPTER.config}."
        )
    _checked(source / kind.weights, kind, read_config(source, kind))


def _checked(path: Path, kind: Kind, config: Mapping[str, Any]) -> bytes:
    """The content of a file of weights that is sound and the one that its JSON was written for."""
    try:
        safefile.check(path)
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing.") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    if config.get("weights_sha256", "") not in ("", hashlib.sha256(content).hexdigest()):
        raise CheckpointError(f"{path} is not the file that {kind.config} was written for: its SHA-256 differs.")
    return content


_TYPES = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}


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
