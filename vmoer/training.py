"""Train Bayesian routers: L = answer cross-entropy + β Σ_layers mean over real tokens of KL(posterior ‖ prior).

The model stays frozen; only the routers of a :class:`~vmoer.handle.Handle` learn. The loss sees the tokens of the right
answer and nothing else; the KL is a mean over real tokens (prompt and answer), never padding, so β means the same for
every batch and length. One reparameterised draw per token and step, numbered by the step, so that an interrupted run
continues with the same data order and the same noise. Model selection: answer NLL of a disjoint validation set under
the in-router estimator.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vmoer.architectures import RouterSite
from vmoer.decision import Decision
from vmoer.errors import CheckpointError, VmoerError
from vmoer.handle import Handle, evaluation
from vmoer.noise import mix_int
from vmoer.tap import Frame

STATE, PROGRESS = "state.safetensors", "state.json"


@dataclass(frozen=True)
class TrainingConfig:
    """Hyper-parameters; ``batch_size`` counts questions per optimiser step, split into parts of ``micro_batch``."""

    beta: float = 0.01
    learning_rate: float = 1e-3
    epochs: int = 3
    batch_size: int = 16
    micro_batch: int = 16
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    patience: int = 3
    evaluate_every: int = 20
    data_seed: int = 0
    sampling_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch", "patience", "evaluate_every"):
            if getattr(self, name) < 1:
                raise VmoerError(f"Training: {name} must be 1 or more, not {getattr(self, name)}.")
        if not self.learning_rate > 0 or not self.beta >= 0 or not 0 <= self.warmup < 1:
            raise VmoerError("Training: learning_rate must be positive, beta 0 or more, warmup in [0, 1).")


@dataclass(frozen=True)
class Example:
    """One training text: token ids of the prompt and of its right answer."""

    prompt: list[int]
    answer: list[int]


@dataclass
class TrainingResult:
    """``log`` rows are ``(step, layer or −1, quantity, value)``; the routers hold the best weights seen."""

    steps: int = 0
    best_step: int = 0
    best_validation_nll: float = math.inf
    stopped_early: bool = False
    log: list[tuple[int, int, str, float]] = field(default_factory=list)


def encode(tokenizer: Any, prompts: Sequence[str], answers: Sequence[str]) -> list[Example]:
    """Token ids of prompts and their right answers (answer texts carry their own leading space)."""
    return [
        Example(tokenizer(prompt)["input_ids"], tokenizer(answer, add_special_tokens=False)["input_ids"])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def train(
    handle: Handle,
    examples: Sequence[Example],
    validation: Sequence[Example],
    config: TrainingConfig,
    *,
    folder: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> TrainingResult:
    """Train the routers of ``handle`` in place, leaving the weights with the best validation NLL.

    With ``folder`` the state is written at every evaluation and picked up from there by the next call. Raises
    :class:`VmoerError` for a method without parameters, empty sets, or texts shared by both sets.
    """
    _check(handle, examples, validation)
    parameters = list(handle.parameters())
    optimiser = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    per_epoch = max(len(examples) // config.batch_size, 1)
    total = per_epoch * config.epochs
    result, best, bad = TrainingResult(), _snapshot(handle), 0
    if folder is not None and (folder / PROGRESS).exists():
        result, best, bad = _resume(folder, handle, optimiser, config)
    else:
        result.best_validation_nll = answer_nll(handle, validation, config.micro_batch)
        result.log.append((0, -1, "validation_nll", result.best_validation_nll))
    with frozen(handle.model), evaluation(handle.model):
        while result.steps < total and bad < config.patience:
            batch = _batch_of_step(examples, result.steps, per_epoch, config)
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * _rate(result.steps, total, config.warmup)
            result.steps += 1
            result.log += _step(handle, batch, optimiser, config, result.steps)
            if result.steps % config.evaluate_every == 0 or result.steps == total:
                nll = answer_nll(handle, validation, config.micro_batch)
                result.log.append((result.steps, -1, "validation_nll", nll))
                if nll < result.best_validation_nll - 1e-4:
                    result.best_validation_nll, result.best_step = nll, result.steps
                    best, bad = _snapshot(handle), 0
                else:
                    bad += 1
                if folder is not None:
                    _write_state(folder, handle, optimiser, result, best, bad, config)
            if progress is not None:
                progress(result.steps, total, f"validation NLL {result.best_validation_nll:.4f}")
    result.stopped_early = result.steps < total
    handle.routers.load_state_dict(best)
    return result


def answer_nll(handle: Handle, examples: Sequence[Example], micro_batch: int = 16) -> float:
    """Mean over questions of the per-token answer NLL (nats), with the handle's own estimator."""
    total = 0.0
    with evaluation(handle.model), torch.inference_mode():
        for start in range(0, len(examples), micro_batch):
            part = list(examples[start : start + micro_batch])
            total += float(_answer_loss(handle.model, part).sum())
    return total / len(examples)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter of ``model`` requires gradients inside the block."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _check(handle: Handle, examples: Sequence[Example], validation: Sequence[Example]) -> None:
    if not any(True for _ in handle.parameters()):
        raise VmoerError(f"Method {handle.method!r} has nothing to train.")
    if not examples or not validation:
        raise VmoerError("Training needs at least one training and one validation question.")
    shared = {tuple(e.prompt + e.answer) for e in examples} & {tuple(e.prompt + e.answer) for e in validation}
    if shared:
        raise VmoerError(f"{len(shared)} validation questions are also in the training set; the sets must be disjoint.")


class _Divergence:
    """Sink that keeps, per layer, the mean KL over real tokens (differentiable) and the posterior's mean std."""

    def __init__(self) -> None:
        self.kl: dict[int, Tensor] = {}
        self.std: dict[int, float] = {}

    def __call__(self, site: RouterSite, decision: Decision, frame: Frame) -> None:
        posterior = decision.posterior
        kl = posterior.kl() if posterior is not None else None
        if posterior is None or kl is None:
            return
        real = frame.mask.reshape(-1).to(kl.device)
        self.kl[site.layer] = kl[real].mean()
        variance = posterior.variance()
        if variance is not None:
            self.std[site.layer] = float((variance.detach()[real].mean() / site.n_experts).sqrt())


def _step(
    handle: Handle, batch: list[Example], optimiser: torch.optim.Optimizer, config: TrainingConfig, step: int
) -> list[tuple[int, int, str, float]]:
    """One optimiser step over ``batch``; returns log rows."""
    optimiser.zero_grad(set_to_none=True)
    sums: dict[tuple[int, str], float] = {}
    parts = [batch[i : i + config.micro_batch] for i in range(0, len(batch), config.micro_batch)]
    stream = mix_int(config.sampling_seed, step) & 0x7FFFFFFF
    for part in parts:
        share = len(part) / len(batch)
        watch = _Divergence()
        with handle.one_draw(stream=stream), handle.tap.listening(watch):
            task = _answer_loss(handle.model, part).mean()
        kl = torch.stack(list(watch.kl.values())).sum() if watch.kl else task.new_zeros(())
        loss = task + config.beta * kl
        (loss * share).backward()
        rows = {(-1, "task_loss"): float(task.detach()), (-1, "loss"): float(loss.detach())}
        rows |= {(layer, "kl"): float(value.detach()) for layer, value in watch.kl.items()}
        rows |= {(layer, "posterior_std"): value for layer, value in watch.std.items()}
        for key, value in rows.items():
            sums[key] = sums.get(key, 0.0) + share * value
    nn.utils.clip_grad_norm_(list(handle.parameters()), config.clip)
    optimiser.step()
    return [(step, layer, quantity, value) for (layer, quantity), value in sorted(sums.items())]


def _answer_loss(model: nn.Module, part: list[Example]) -> Tensor:
    """Per-token NLL of each right answer ``[questions]``; prompt tokens and padding carry no loss."""
    device = next(model.parameters()).device
    width = max(len(e.prompt) + len(e.answer) for e in part)
    ids = torch.zeros(len(part), width, dtype=torch.long)
    mask = torch.zeros(len(part), width, dtype=torch.long)
    scored = torch.zeros(len(part), width, dtype=torch.bool)
    for row, example in enumerate(part):
        start, stop = len(example.prompt), len(example.prompt) + len(example.answer)
        ids[row, :stop] = torch.tensor(example.prompt + example.answer)
        mask[row, :stop] = 1
        scored[row, start:stop] = True
    ids, mask, scored = ids.to(device), mask.to(device), scored.to(device)
    kept = max(len(e.answer) for e in part) + width - min(len(e.prompt) + len(e.answer) for e in part) + 1
    kept = min(kept, width)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits[:, :-1].float()
    log_p = logits.log_softmax(-1).gather(-1, ids[:, width - kept + 1 :, None])[..., 0]
    keep = scored[:, width - kept + 1 :]
    return -(log_p * keep).sum(-1) / keep.sum(-1)


def _batch_of_step(examples: Sequence[Example], step: int, per_epoch: int, config: TrainingConfig) -> list[Example]:
    """The questions of one step: a function of the data seed and the step alone."""
    epoch, index = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(mix_int(config.data_seed, epoch) & 0x7FFFFFFF)
    order = torch.randperm(len(examples), generator=generator).tolist()
    chosen = order[index * config.batch_size : (index + 1) * config.batch_size]
    return sorted((examples[i] for i in chosen), key=lambda e: len(e.prompt) + len(e.answer))


def _rate(step: int, total: int, warmup: float) -> float:
    """Linear warm-up, then cosine to zero."""
    start = max(int(total * warmup), 1)
    if step < start:
        return (step + 1) / start
    return 0.5 * (1.0 + math.cos(math.pi * (step - start) / max(total - start, 1)))


def _snapshot(handle: Handle) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in handle.routers.state_dict().items()}


def _write_state(
    folder: Path,
    handle: Handle,
    optimiser: torch.optim.Optimizer,
    result: TrainingResult,
    best: dict[str, Tensor],
    bad: int,
    config: TrainingConfig,
) -> None:
    """State for :func:`_resume`; the JSON is replaced last and names the step the tensors belong to."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"now.{name}": tensor for name, tensor in _snapshot(handle).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value).clone() for name, value in slots.items()}
    state = {"result": asdict(result), "bad": bad, "config": asdict(config)}
    name = f"{result.steps}-{STATE}"
    for path, content in ((folder / name, save(tensors)), (folder / PROGRESS, json.dumps(state).encode())):
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(content)
        os.replace(partial, path)
    for old in folder.glob(f"*-{STATE}"):
        if old.name != name:
            old.unlink()


def _resume(
    folder: Path,
    handle: Handle,
    optimiser: torch.optim.Optimizer,
    config: TrainingConfig,
) -> tuple[TrainingResult, dict[str, Tensor], int]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = json.loads((folder / PROGRESS).read_text())
        result = TrainingResult(**{**state["result"], "log": [tuple(row) for row in state["result"]["log"]]})
        tensors = load_file(folder / f"{result.steps}-{STATE}")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"The training state in {folder} cannot be read; delete it to start again.") from error
    if state["config"] != asdict(config):
        raise CheckpointError(f"The training state in {folder} was made with other settings; delete it to start again.")
    parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}}
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "adam":
            index, _, slot = rest.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
        else:
            parts[kind][rest] = tensor
    handle.routers.load_state_dict(parts["now"])
    saved = optimiser.state_dict()
    saved["state"] = slots
    optimiser.load_state_dict(saved)
    return result, parts["best"], state["bad"]
