"""What VMoER can do with a model, before anything is loaded: family, sizes, memory, and each method's cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vmoer.errors import ModelSourceError
from vmoer.measure import macs as efficiency
from vmoer.models.catalog import HUB_ID, available_models
from vmoer.models.folder_check import check_folder
from vmoer.models.hub import fetch_config
from vmoer.models.skeleton import Skeleton, read_config, skeleton_from_config
from vmoer.models.weights_check import check_weights
from vmoer.registry import unknown_name
from vmoer.routers.base import routers

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: layers that carry routers in the cost columns
LAYERS = 10
SAMPLES = 35
_COSTS = ("router_parameters_per_layer", "extra_percent", "extra_percent_all_layers")


def config_file(source: str) -> Path:
    """The ``config.json`` of a model known by name, of a folder, of a hub id (nothing else is fetched), or itself."""
    known = {info.name: info for info in available_models()}
    path = known[source].folder if source in known else Path(source).expanduser()
    if path.is_dir():
        path /= "config.json"
    if path.is_file():
        return path
    if source in known:
        raise ModelSourceError(f"{source} is not here yet; run `vmoer models get {source}` first.")
    if path.name == "config.json":
        raise ModelSourceError(f"There is no {path}; give a folder, a config.json, a hub id or a model's name.")
    if HUB_ID.fullmatch(source) and not source.startswith("."):
        return fetch_config(source)
    raise ModelSourceError(unknown_name("model", source, sorted(known)) + " A folder, a config.json or a hub id works.")


def report(source: str) -> dict[str, Any]:
    """Everything ``vmoer doctor MODEL`` says, as plain values; a model no router fits is refused with a sentence."""
    path = config_file(source)
    config = read_config(path)
    fetched = path.name == "config.json" and HUB_ID.fullmatch(source) and not Path(source).exists()
    weights = "none here" if fetched else _weights(path)
    size = skeleton_from_config(config, source)
    width = _BYTES.get(size.dtype, 4)
    return {
        "model": source,
        "family": size.class_name,
        "rule": size.rule,
        "layers": len(size.layer_macs),
        "moe_layers": list(size.moe_layers),
        "experts": size.n_experts,
        "top_k": size.top_k,
        "hidden_size": size.hidden_size,
        "dtype": size.dtype,
        "parameters": size.n_parameters,
        "active_parameters": size.n_active,
        "weights_gb": round(size.n_parameters * width / 1e9, 2),
        "weights_float32_gb": round(size.n_parameters * 4 / 1e9, 2),
        "macs_per_token": size.macs,
        "weights": weights,
        "methods": [_method(config, size, name) for name in routers.names()],
    }


def _weights(config: Path) -> str:
    """Whether the tensors beside ``config`` are those of the model, by name and shape; refused when they are not."""
    if config.name != "config.json" or not any(config.parent.glob("*.safetensors*")):
        return "none here"
    check_folder(config.parent)
    return "complete" if check_weights(config.parent) else "quantised: compared while they are loaded"


def _method(config: Any, size: Skeleton, name: str) -> dict[str, Any]:
    """One method: whether the family takes it, its estimators, and what it adds at some layers and at all."""
    some = min(LAYERS, len(size.moe_layers))
    refused = size.bayesian_refusal if name != "deterministic" else ""
    row: dict[str, Any] = {"method": name, "supported": not refused, "refusal": refused or None}
    closed = routers.get(name).closed_form and size.softmax
    row["estimators"] = [] if refused else ["in-router", *(["closed-form"] if closed else []), "predictive"]
    head = None if refused else efficiency.head_of(config, name)
    macs = head.macs(SAMPLES) if head is not None else None
    if head is None or macs is None:
        return {**row, "layers": some, **dict.fromkeys(_COSTS)}
    percent = 100 * macs / size.macs
    values = (efficiency.extra_parameters(head), some * percent, len(size.moe_layers) * percent)
    return {**row, "layers": some, **dict(zip(_COSTS, values, strict=True))}
