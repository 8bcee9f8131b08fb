"""The state of an interrupted training: written at every evaluation, picked up by the next call, equal to the bit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from vmoer.checkpoint import replace_file
from vmoer.errors import CheckpointError
from vmoer.models.safetensors_check import load_file
from vmoer.models.weights_check import differences
from vmoer.training.config import TrainingConfig, TrainingResult
from vmoer.training.learner import Learner

STATE, PROGRESS = "state.safetensors", "state.json"


def write_state(
    folder: Path,
    learner: Learner,
    optimiser: torch.optim.Optimizer,
    result: TrainingResult,
    best: dict[str, Tensor],
    bad: int,
    config: TrainingConfig,
) -> None:
    """State for :func:`resume`; the JSON is replaced last and names the step the tensors belong to."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"now.{name}": tensor for name, tensor in learner.snapshot().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value).clone() for name, value in slots.items()}
    state = {"result": asdict(result), "bad": bad, "config": asdict(config)}
    name = f"{result.steps}-{STATE}"
    replace_file(folder / name, save(tensors))
    replace_file(folder / PROGRESS, json.dumps(state).encode())
    for old in folder.glob(f"*-{STATE}"):
        if old.name != name:
            old.unlink()


def resume(
    folder: Path, learner: Learner, optimiser: torch.optim.Optimizer, result: TrainingResult, config: TrainingConfig
) -> tuple[dict[str, Tensor], int]:
    """Continue from ``folder``: fills ``result`` in place; returns the best weights and the evaluations since then."""
    from safetensors import SafetensorError

    try:
        state = json.loads((folder / PROGRESS).read_text())
        for name, value in state["result"].items():
            setattr(result, name, [tuple(row) for row in value] if name == "log" else value)
        tensors = load_file(folder / f"{result.steps}-{STATE}")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"The training state in {folder} cannot be read; delete it to start again.") from error
    if state["config"] != asdict(config):
        raise CheckpointError(f"The training state in {folder} was made with other settings; delete it to start again.")
    parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "adam": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        parts.setdefault(kind, {})[rest] = tensor
    for part in (parts["now"], parts["best"]):
        if wrong := differences(part, learner.tensors):
            raise CheckpointError(
                f"The training state in {folder} is of other weights: {wrong}; delete it to start again."
            )
    learner.load(parts["now"])
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["adam"].items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = tensor
    saved = optimiser.state_dict()
    saved["state"] = slots
    optimiser.load_state_dict(saved)
    return parts["best"], state["bad"]
