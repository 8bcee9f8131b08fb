"""MAP routers: the native routers fine-tuned with plain cross-entropy, as a correction ΔW beside each of them.

The routing logits become W u + ΔW u, computed in float32 whatever the model's dtype (an AdamW step of 1e-4 is lost in
bfloat16). The native weights are never written, so taking the correction off gives the model back bit for bit.
Bayesian routers that are put on top have the fine-tuned logits as their prior mean, and their checkpoint says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmoer import layers as layer_selection
from vmoer.architectures.fingerprint import fingerprint
from vmoer.checkpoint import check_adapter, replace_file
from vmoer.errors import CheckpointError, UnsupportedModelError
from vmoer.learner import Learner
from vmoer.safefile import load_file
from vmoer.tap import Tap, tap_of

FORMAT = 1
WEIGHTS, CONFIG = "map.safetensors", "map.json"
_KEYS = ("architecture", "layers", "native_routers_sha256", "adapter_sha256")


class MapRouters:
    """Fine-tuned routers on one model; ``shifts`` maps the absolute layer (as text) to ΔW ``[experts, hidden]``."""

    def __init__(self, tap: Tap, shifts: nn.ModuleDict) -> None:
        if tap.shifts or tap.heads:
            raise UnsupportedModelError(
                "This model already carries fine-tuned or Bayesian routers; restore them first."
            )
        self.tap = tap
        self.shifts = shifts
        self.native = fingerprint(site for site in tap.sites if str(site.layer) in shifts)
        for layer, shift in shifts.items():
            assert isinstance(shift, nn.Linear)
            tap.shifts[int(layer)] = shift
        tap.refresh()

    @property
    def layers(self) -> list[int]:
        """Absolute layers whose router is fine-tuned."""
        return [int(layer) for layer in self.shifts]

    def learner(self) -> Learner:
        """The corrections, for :func:`vmoer.training.train`."""
        return Learner(self.tap, dict(self.shifts.named_parameters()), self.shifts.state_dict())

    def restore(self) -> None:
        """Give the model back, outputs bit-identical to before. Safe to call twice."""
        for layer in self.layers:
            self.tap.shifts.pop(layer, None)
        self.tap.refresh()

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write ``map.safetensors`` and ``map.json`` into ``folder``; returns the folder."""
        from safetensors.torch import save

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in self._weights().items()}
        config = {
            "format": FORMAT,
            "architecture": type(self.tap.model).__name__,
            "layers": self.layers,
            "native_routers_sha256": self.native,
            "adapter_sha256": self.tap.adapter,
        }
        replace_file(target / WEIGHTS, save(tensors, metadata={"format": "pt"}))
        replace_file(target / CONFIG, (json.dumps(config, indent=1) + "\n").encode())
        return target

    def _weights(self) -> dict[str, torch.Tensor]:
        return self.shifts.state_dict()


def fine_tune(model: nn.Module, layers: layer_selection.LayerSelection = "all") -> MapRouters:
    """Corrections of zero on the chosen layers' routers, ready to be trained; the model still answers as before."""
    tap = tap_of(model)
    chosen = layer_selection.resolve(layers, [site.layer for site in tap.sites])
    return MapRouters(tap, _zeros(tap, chosen))


def load_map_routers(model: nn.Module, folder: str | Path) -> MapRouters:
    """The fine-tuned routers saved in ``folder``, active on ``model``.

    Refused with :class:`CheckpointError`: another family or layer, other native routers, another adapter than the one
    they were trained beside, damaged or misshapen weights.
    """
    source = Path(folder)
    config = _read(source)
    tap = tap_of(model)
    if config["architecture"] != type(tap.model).__name__:
        raise CheckpointError(
            f"MAP routers in {source} belong to a {config['architecture']}, not to this {type(tap.model).__name__}."
        )
    check_adapter(source, config["adapter_sha256"], tap.adapter)
    native = fingerprint(site for site in tap.sites if site.layer in config["layers"])
    if native != config["native_routers_sha256"]:
        raise CheckpointError(
            f"The native routers are not those {source} was fine-tuned from: another model or revision."
        )
    shifts = _zeros(tap, config["layers"])
    shifts.load_state_dict(_tensors(source, shifts))
    return MapRouters(tap, shifts)


def _zeros(tap: Tap, layers: list[int]) -> nn.ModuleDict:
    shifts = nn.ModuleDict()
    for site in tap.sites:
        if site.layer in layers:
            shift = nn.utils.skip_init(nn.Linear, site.hidden_size, site.n_experts, bias=False)
            nn.init.zeros_(shift.weight)
            shifts[str(site.layer)] = shift.to(next(site.router.parameters()).device)
    return shifts


def _read(source: Path) -> dict[str, Any]:
    try:
        config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"No MAP routers in {source}: {CONFIG} is missing.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source / CONFIG} cannot be read: {error}.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT or any(key not in config for key in _KEYS):
        raise CheckpointError(f"{source / CONFIG} is not a checkpoint of MAP routers this version can read.")
    if not isinstance(config["layers"], list) or not isinstance(config["native_routers_sha256"], dict):
        raise CheckpointError(f"{source / CONFIG} is not a checkpoint of MAP routers this version can read.")
    return config


def _tensors(source: Path, expected: nn.ModuleDict) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError

    try:
        tensors = load_file(source / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{source / WEIGHTS} is missing or damaged: {error}.") from error
    wanted = {name: tensor.shape for name, tensor in expected.state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != wanted:
        raise CheckpointError(f"{source / WEIGHTS} does not hold one correction of the right size per layer.")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise CheckpointError(f"{source / WEIGHTS} holds values that are not finite.")
    return {name: tensor.float() for name, tensor in tensors.items()}
