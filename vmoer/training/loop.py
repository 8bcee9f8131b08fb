"""Train adapters, native routers and Bayesian routers: L = answer loss + β Σ_layers mean over real tokens of KL.

Only a :class:`~vmoer.training.learner.Learner` learns; everything else is frozen. The loss sees the tokens of the
right answer and nothing else (or, as ``loss="choice"``, the right option among all options); the KL is a mean over
the real tokens of the batch (prompt and answer), never padding, so β means the same for every length and micro-batch.
Draws are reparameterised and numbered by the step, so that an interrupted run continues with the same data order and
the same noise. Model selection: the answer NLL of a disjoint validation set.

Some methods differ, as their :class:`~vmoer.routers.base.BayesianRouter` says. A weight-space Gaussian trains its mean
without noise and gets its spread afterwards. One that lives on the *path* of training keeps a constant learning rate,
never stops early and ends at the last weights. Members of an ensemble see the same questions, each in an order of its
own, with gradients, clipping and optimiser state of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vmoer.architectures import RouterSite
from vmoer.errors import VmoerError
from vmoer.forward.decision import Decision
from vmoer.forward.frame import Frame
from vmoer.forward.modes import evaluation
from vmoer.handle import Handle
from vmoer.methods import MARGIN
from vmoer.models.context_limit import refuse_too_long
from vmoer.rng import mix_int
from vmoer.routers.base import BayesianRouter
from vmoer.scoring.likelihood import log_likelihood
from vmoer.training.config import Example, TrainingConfig, TrainingResult
from vmoer.training.curvature import fisher_diagonal
from vmoer.training.learner import Learner, learner_of
from vmoer.training.schedule import batch_of_step, clip_gradients, rate
from vmoer.training.state import PROGRESS, resume, write_state


def train(
    subject: Handle | Learner,
    examples: Sequence[Example],
    validation: Sequence[Example],
    config: TrainingConfig,
    *,
    folder: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> TrainingResult:
    """Train in place, leaving the weights with the best validation NLL (the last ones, where the method says so).

    With ``folder`` the state is written at every evaluation and picked up from there by the next call. Raises
    :class:`VmoerError` for a method without parameters, empty sets, or texts shared by both sets.
    """
    learner = learner_of(subject) if isinstance(subject, Handle) else subject
    handle, method = learner.handle, _method(learner)
    _check(learner, examples, validation, config)
    optimiser = torch.optim.AdamW(
        list(learner.parameters.values()),
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
    )
    per_epoch = max(len(examples) // config.batch_size, 1)
    total = per_epoch * config.epochs
    with handle.without_noise() if handle is not None and method.fits_variance_after else nullcontext():
        result, best, bad = TrainingResult(), learner.snapshot(), 0
        if folder is not None and (folder / PROGRESS).exists():
            best, bad = resume(folder, learner, optimiser, result, config)
        else:
            result.best_validation_nll = _validation_nll(learner, validation, config)
            result.log.append((0, -1, "validation_nll", result.best_validation_nll))
        while result.steps < total and (bad < config.patience or method.keeps_last_weights):
            batch = batch_of_step(examples, result.steps, per_epoch, config, _members(learner))
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * rate(result.steps, total, config.warmup, method.keeps_last_weights)
            result.steps += 1
            active, learning = _phase(learner, result.steps, total, config)
            with learning, active, evaluation(learner.model):
                result.log += _step(learner, batch, optimiser, config, result.steps, total)
            if handle is not None:
                for layer in handle.layers:
                    handle.head(layer).after_step(result.steps, total)
            if result.steps % config.evaluate_every == 0 or result.steps == total:
                active, _ = _phase(learner, result.steps, total, config)
                with active:
                    nll = _validation_nll(learner, validation, config)
                result.log.append((result.steps, -1, "validation_nll", nll))
                if not _last_phase(learner, result.steps, total, config):
                    pass  # layers are still missing: no candidate yet
                elif nll < result.best_validation_nll - MARGIN or (config.progressive and result.best_step == 0):
                    result.best_validation_nll, result.best_step = nll, result.steps
                    best, bad = learner.snapshot(), 0
                else:
                    bad += 1
                if folder is not None:
                    write_state(folder, learner, optimiser, result, best, bad, config)
            if progress is not None:
                progress(result.steps, total, f"validation NLL {result.best_validation_nll:.4f}")
        result.stopped_early = result.steps < total
        if method.keeps_last_weights:
            result.best_step = result.steps
        else:
            learner.load(best)
    if handle is not None and (fitted := _finish(handle, examples, config)):
        nll = answer_nll(handle, validation, config.micro_batch)
        rows = [*fitted, (-1, "posterior_validation_nll", nll)]
        result.log += [(result.steps, layer, quantity, value) for layer, quantity, value in rows]
    return result


def answer_nll(handle: Handle, examples: Sequence[Example], micro_batch: int = 16) -> float:
    """Mean over questions of the per-token answer NLL (nats), with the handle's own estimator."""
    config = TrainingConfig(micro_batch=micro_batch)
    total = 0.0
    with evaluation(handle.model), torch.inference_mode():
        for part in _parts(examples, config):
            total += float(_losses(learner_of(handle), part, config, None).sum())
    return total / len(examples)


def _finish(handle: Handle, examples: Sequence[Example], config: TrainingConfig) -> list[tuple[int, str, float]]:
    """Let each router fit what gradients do not; return log rows ``(layer, quantity, value)``."""
    heads = {layer: handle.head(layer) for layer in handle.layers}
    curvature: dict[int, Tensor] = {}
    if any(head.needs_curvature for head in heads.values()):
        curvature = fisher_diagonal(handle, examples, micro_batch=config.micro_batch, seed=config.sampling_seed)
    return [
        (layer, quantity, value)
        for layer, head in heads.items()
        for quantity, value in head.finish_training(curvature.get(layer)).items()
    ]


def _method(learner: Learner) -> type[BayesianRouter]:
    """What the method of a learner says about its training; adapters and native routers have nothing special."""
    return BayesianRouter if learner.handle is None else type(learner.handle.head(learner.handle.layers[0]))


def _members(learner: Learner) -> int:
    return 1 if learner.handle is None else learner.handle.support or 1


def _check(
    learner: Learner, examples: Sequence[Example], validation: Sequence[Example], config: TrainingConfig
) -> None:
    if not examples or not validation:
        raise VmoerError("Training needs at least one training and one validation question.")
    shared = {tuple(e.prompt + e.answer) for e in examples} & {tuple(e.prompt + e.answer) for e in validation}
    refuse_too_long(learner.model.config, [e.longest for e in [*examples, *validation]], "training texts")
    if shared:
        raise VmoerError(f"{len(shared)} validation questions are also in the training set; the sets must be disjoint.")
    if config.loss == "choice" and not all(example.wrong for example in [*examples, *validation]):
        raise VmoerError("Training with loss 'choice' needs the wrong options of every question.")
    if config.progressive and learner.handle is None:
        raise VmoerError("Only Bayesian routers can be trained progressively.")
    if config.progressive and _method(learner).keeps_last_weights:
        raise VmoerError("Routers that collect snapshots on the path of training cannot be trained progressively.")
    if config.objective == "averaged" and _members(learner) > 1:
        raise VmoerError("Members of an ensemble are trained independently: train them with objective 'expected'.")


def _validation_nll(learner: Learner, examples: Sequence[Example], config: TrainingConfig) -> float:
    """Mean loss per question without the KL: the handle's own estimator, or averaged answers when those are trained."""
    stream = 0 if config.objective == "averaged" and learner.handle is not None else None
    total = 0.0
    with evaluation(learner.model), torch.inference_mode():
        for part in _parts(examples, config):
            total += float(_losses(learner, part, config, stream).sum())
    return total / len(examples)


def _phase(
    learner: Learner, step: int, total: int, config: TrainingConfig
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts of a step: which heads route, which parameters learn (all of them, unless trained progressively)."""
    handle = learner.handle
    if handle is None or not config.progressive:
        return nullcontext(), learner.learning()
    place = _place(learner, step, total)
    layer = handle.layers[-1 - place]
    mine = {name: value for name, value in learner.parameters.items() if name.startswith(f"{layer}.")}
    return handle.only(handle.layers[-1 - place :]), Learner(learner.tap, mine, {}, handle).learning()


def _place(learner: Learner, step: int, total: int) -> int:
    """How many layers have been trained before this step's (1-based) layer, deepest first."""
    assert learner.handle is not None
    count = len(learner.handle.layers)
    return min((step - 1) * count // total, count - 1)


def _last_phase(learner: Learner, step: int, total: int, config: TrainingConfig) -> bool:
    if learner.handle is None or not config.progressive:
        return True
    return _place(learner, step, total) == len(learner.handle.layers) - 1


class _Watch:
    """Sink that keeps, per layer over real tokens: the mean KL (differentiable) and what the log shows of a router."""

    def __init__(self) -> None:
        self.kl: dict[int, Tensor] = {}
        self.seen: dict[tuple[int, str], float] = {}

    def __call__(self, site: RouterSite, decision: Decision, frame: Frame) -> None:
        posterior = decision.posterior
        if posterior is None:
            return
        real = frame.mask.reshape(-1).to(decision.base_logits.device)
        kl = posterior.kl()
        if kl is not None:
            self.kl[site.layer] = kl[real].mean()
            self.seen[site.layer, "kl"] = float(self.kl[site.layer].detach())
        self.seen[site.layer, "logit_std"] = float(decision.base_logits.detach()[real].float().std(-1).mean())
        variance = posterior.variance()
        if variance is not None:
            self.seen[site.layer, "posterior_std"] = float((variance.detach()[real].mean() / site.n_experts).sqrt())
        if posterior.temperature is not None:
            self.seen[site.layer, "temperature"] = float(posterior.temperature.detach()[real].mean())


def _step(
    learner: Learner,
    batch: list[Example],
    optimiser: torch.optim.Optimizer,
    config: TrainingConfig,
    step: int,
    total: int,
) -> list[tuple[int, int, str, float]]:
    """One optimiser step over ``batch``; returns log rows. A layer's ``beta`` is the weight its KL really had."""
    optimiser.zero_grad(set_to_none=True)
    sums: dict[tuple[int, str], float] = {}
    beta = config.beta * min(1.0, step / max(config.kl_warmup * total, 1.0))
    stream = mix_int(config.sampling_seed, step) & 0x7FFFFFFF
    choice = config.loss == "choice"
    parts = _parts(batch, config)
    tokens = [sum(len(prompt) + len(answer) for e in part for prompt, answer in e.rows(choice)) for part in parts]
    for part, count in zip(parts, tokens, strict=True):
        # the task is a mean over the questions of the batch, the KL over its tokens: however it is split into parts
        share, weight = len(part) / len(batch), count / sum(tokens)
        watch = _Watch()
        with learner.tap.listening(watch):
            task = _losses(learner, part, config, stream).mean()
        kl = torch.stack(list(watch.kl.values())).sum() if watch.kl else task.new_zeros(())
        loss = share * task + weight * beta * kl
        (loss * _members(learner)).backward()  # a member's gradient is the mean over its own questions
        rows = {key: weight * value for key, value in watch.seen.items()}
        rows |= {(-1, "task_loss"): share * float(task.detach()), (-1, "loss"): float(loss.detach())}
        for key, value in rows.items():
            sums[key] = sums.get(key, 0.0) + value
        sums |= {(layer, "beta"): beta for layer in watch.kl}
    clip_gradients(list(learner.parameters.values()), config.clip, _members(learner))
    optimiser.step()
    return [(step, layer, quantity, value) for (layer, quantity), value in sorted(sums.items())]


def _losses(learner: Learner, part: Sequence[Example], config: TrainingConfig, stream: int | None) -> Tensor:
    """Loss of each question ``[questions]``: per token of the answer, or of the choice among the options.

    ``stream=None`` is the handle's own estimator (one pass); a number draws ``config.draws`` samples of that stream.
    """
    choice = config.loss == "choice"
    rows = [row for e in part for row in e.rows(choice)]
    member = torch.tensor([e.member for e in part for _ in range(1 + len(e.wrong) if choice else 1)])
    draws = config.draws if learner.handle is not None and stream is not None else 1
    ids = (torch.arange(draws)[:, None] * _members(learner) + member).reshape(-1)
    sampling = learner.sampling(ids, stream) if stream is not None else nullcontext()
    with sampling:
        total, count = log_likelihood(learner.model, rows * draws)
    total, count = total.view(draws, -1), count[: len(rows)]
    if choice:
        sizes = [1 + len(e.wrong) for e in part]
        options = (total / count).split(sizes, dim=1)
        log_p = torch.stack([scores.log_softmax(-1)[:, 0] for scores in options], dim=1)
        count = count.new_ones(len(part))
    else:
        log_p = total
    if config.objective == "averaged":
        return -(log_p.logsumexp(0) - math.log(draws)) / count
    return -log_p.mean(0) / count


def _parts(examples: Sequence[Example], config: TrainingConfig) -> list[Sequence[Example]]:
    options = 1 + max(len(example.wrong) for example in examples) if config.loss == "choice" else 1
    size = max(config.micro_batch // (options * config.draws), 1)
    return [examples[start : start + size] for start in range(0, len(examples), size)]
