"""MAP routers: the native routers fine-tuned with plain cross-entropy, as a correction ΔW beside each of them.

The routing logits become W u + ΔW u, computed in float32 whatever the model's dtype (an AdamW step of 1e-4 is lost in
bfloat16). The native weights are never written, so taking the correction off gives the model back bit for bit.
Bayesian routers that are put on top have the fine-tuned logits as their prior mean, and their checkpoint says so.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from vmoer import checkpoint
from vmoer import layers as layer_selection
from vmoer.architectures.fingerprint import fingerprint
from vmoer.errors import CheckpointError, UnsupportedModelError
from vmoer.forward.hooks import Tap, tap_of
from vmoer.training.learner import Learner


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
        """The corrections, for :func:`vmoer.training.loop.train`."""
        return Learner(self.tap, dict(self.shifts.named_parameters()), self.shifts.state_dict())

    def restore(self) -> None:
        """Give the model back, outputs bit-identical to before. Safe to call twice."""
        for layer in self.layers:
            self.tap.shifts.pop(layer, None)
        self.tap.refresh()

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write ``map.safetensors`` and ``map.json`` into ``folder``; returns the folder."""
        tensors = {
            name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in self.shifts.state_dict().items()
        }
        config = {
            "architecture": type(self.tap.model).__name__,
            "layers": self.layers,
            "native_routers_sha256": self.native,
            "adapter_sha256": self.tap.adapter,
        }
        return checkpoint.write(folder, checkpoint.MAP_ROUTERS, config, checkpoint.pack(tensors))


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
    config = checkpoint.read_config(source, checkpoint.MAP_ROUTERS)
    tap = tap_of(model)
    if config["architecture"] != type(tap.model).__name__:
        raise CheckpointError(
            f"MAP routers in {source} belong to a {config['architecture']}, not to this {type(tap.model).__name__}."
        )
    checkpoint.check_adapter(source, config.get("adapter_sha256"), tap.adapter)
    known = [site.layer for site in tap.sites]
    absent = [layer for layer in config["layers"] if layer not in known]
    if absent:
        raise CheckpointError(f"MAP routers in {source} need an MoE layer {absent[0]}; this model has none there.")
    native = fingerprint(site for site in tap.sites if site.layer in config["layers"])
    if native != config["native_routers_sha256"]:
        raise CheckpointError(
            f"The native routers are not those {source} was fine-tuned from: another model or revision."
        )
    shifts = _zeros(tap, config["layers"])
    shifts.load_state_dict(checkpoint.read_tensors(source, checkpoint.MAP_ROUTERS, shifts.state_dict(), config))
    return MapRouters(tap, shifts)


def _zeros(tap: Tap, layers: list[int]) -> nn.ModuleDict:
    shifts = nn.ModuleDict()
    for site in tap.sites:
        if site.layer in layers:
            shift = nn.utils.skip_init(nn.Linear, site.hidden_size, site.n_experts, bias=False)
            nn.init.zeros_(shift.weight)
            shifts[str(site.layer)] = shift.to(next(site.router.parameters()).device)
    return shifts
