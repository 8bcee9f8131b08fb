"""Adapt the language model to a task: LoRA on the attention projections (by ``peft``), on and off a loaded model.

The adapter is never merged: its product is added in float32 beside the frozen projection, so that taking it off gives
the model back bit for bit. Dropout is left out (it would draw from torch's global generator). The folder is in peft's
own format, with ``adapter.json`` beside it that says which model the adapter belongs to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmoer import checkpoint
from vmoer.architectures.fingerprint import fingerprint
from vmoer.errors import CheckpointError, UnsupportedModelError, VmoerError
from vmoer.forward.hooks import Tap, tap_of
from vmoer.rng import mix_int
from vmoer.training.learner import Learner

PEFT_CONFIG = "adapter_config.json"
TARGETS = ("q_proj", "k_proj", "v_proj")


class Adapter:
    """A LoRA adapter on one model; :meth:`restore` takes it off."""

    def __init__(self, tap: Tap, injected: Any, rank: int, alpha: int, targets: Sequence[str]) -> None:
        self.tap = tap
        self._injected = injected
        self.rank, self.alpha, self.targets = rank, alpha, list(targets)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The low-rank factors, by module path."""
        return {name: value for name, value in self.tap.model.named_parameters() if ".lora_" in name}

    def learner(self) -> Learner:
        """The low-rank factors, for :func:`vmoer.training.loop.train`."""
        parameters = self.parameters
        return Learner(self.tap, parameters, {name: value.data for name, value in parameters.items()})

    def restore(self) -> None:
        """Give the model back: modules and outputs are those from before. Safe to call twice."""
        if self._injected is not None:
            self._injected.unload()
            self._injected = None
            self.tap.adapter = None

    def save(self, folder: str | Path) -> Path:
        """Write the adapter into ``folder``, in peft's format; returns the folder."""
        tensors = {_file_name(name): value.detach().cpu().contiguous() for name, value in self.parameters.items()}
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        content = checkpoint.pack(tensors)
        sha256 = hashlib.sha256(content).hexdigest()
        peft_config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": None,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": self.targets,
        }
        config = {
            "architecture": type(self.tap.model).__name__,
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": self.targets,
            "weights_sha256": sha256,
            "native_routers_sha256": fingerprint(self.tap.sites),
        }
        checkpoint.replace_file(target / PEFT_CONFIG, (json.dumps(peft_config, indent=1) + "\n").encode())
        checkpoint.write(target, checkpoint.ADAPTER, config, content)
        self.tap.adapter = sha256
        return target


def adapt(
    model: nn.Module, rank: int = 16, alpha: int = 16, targets: Sequence[str] = TARGETS, seed: int = 0
) -> Adapter:
    """A fresh adapter on ``model``: A drawn from ``seed``, B zero, so that the model still answers as before."""
    if rank < 1 or not alpha > 0:
        raise VmoerError(f"An adapter needs a rank of 1 or more and a positive alpha, not {rank} and {alpha}.")
    adapter = _inject(tap_of(model), rank, alpha, targets)
    for number, (name, parameter) in enumerate(sorted(adapter.parameters.items())):
        with torch.no_grad():
            if ".lora_A." in name:
                generator = torch.Generator().manual_seed(mix_int(seed, number) & 0x7FFFFFFF)
                bound = parameter.shape[1] ** -0.5
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
            else:
                parameter.zero_()
    return adapter


def load_adapter(model: nn.Module, folder: str | Path) -> Adapter:
    """The adapter saved in ``folder``, active on ``model``; refused when it belongs to another model or is damaged."""
    source = Path(folder)
    config = checkpoint.read_config(source, checkpoint.ADAPTER)
    tap = tap_of(model)
    if config["architecture"] != type(tap.model).__name__ or config["native_routers_sha256"] != fingerprint(tap.sites):
        raise CheckpointError(
            f"The adapter in {source} belongs to another model or revision ({config['architecture']})."
        )
    adapter = _inject(tap, config["rank"], config["alpha"], config["targets"])
    expected = {_file_name(name): parameter for name, parameter in adapter.parameters.items()}
    try:
        tensors = checkpoint.read_tensors(source, checkpoint.ADAPTER, expected, config)
    except CheckpointError:
        adapter.restore()
        raise
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(tensors[name])
    tap.adapter = config["weights_sha256"]
    return adapter


def _inject(tap: Tap, rank: int, alpha: int, targets: Sequence[str]) -> Adapter:
    from peft import LoraConfig, LoraModel

    if tap.adapter is not None or tap.heads or tap.shifts:
        raise UnsupportedModelError("This model already carries an adapter or routers; restore them first.")
    present = {name.rpartition(".")[2] for name, _ in tap.model.named_modules()}
    missing = [target for target in targets if target not in present]
    if missing:
        raise UnsupportedModelError(f"{type(tap.model).__name__} has no module {missing[0]!r} to adapt.")
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=list(targets), task_type="CAUSAL_LM"
    )
    flags = [(parameter, parameter.requires_grad) for parameter in tap.model.parameters()]
    with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator; ours replaces it
        injected = LoraModel(tap.model, config, "default")
    for parameter, flag in flags:  # peft freezes the model for good; that is the trainer's business
        parameter.requires_grad_(flag)
    tap.adapter = "untrained"
    adapter = Adapter(tap, injected, rank, alpha, targets)
    for parameter in adapter.parameters.values():
        parameter.data = parameter.data.float()
    return adapter


def _file_name(path: str) -> str:
    """A factor's path in the model → peft's name of it in a file."""
    return f"base_model.model.{path}".replace(".default.", ".")
