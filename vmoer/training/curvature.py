"""Measure the curvature of the answer log-likelihood in router weights, as the Laplace approximation needs it.

For a softmax over next tokens the generalised Gauss–Newton matrix is the Fisher information under the *model's own*
answers: E_{y ~ p}[∇ log p(y) ∇ log p(y)ᵀ]. Its diagonal is estimated by squares of per-question gradients at answers
drawn from the model, token by token along the right answer (tokens drawn independently, so their cross terms vanish on
average). The right answers themselves would give the empirical Fisher, which disappears where the model has learned
them. Which experts run is held fixed: the curvature is that of the gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vmoer.forward.modes import evaluation
from vmoer.handle import Handle
from vmoer.rng import mix_int
from vmoer.scoring.likelihood import answer_log_probabilities
from vmoer.training.config import Example
from vmoer.training.learner import learner_of


def fisher_diagonal(
    handle: Handle, examples: Sequence[Example], *, micro_batch: int, seed: int = 0, draws: int = 1
) -> dict[int, Tensor]:
    """Per layer ``[experts, hidden]``: Σ over questions of E[(∂ log p(y) / ∂A)²], by ``draws`` answers each."""
    totals: dict[int, Tensor] = {}
    seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def keep(site: Any, decision: Any, frame: Any) -> None:
        if decision.posterior is not None:
            mean = decision.posterior.mean
            mean.retain_grad()
            seen[site.layer] = (mean, decision.posterior.hidden.detach(), frame.mask)

    with learner_of(handle).learning(), evaluation(handle.model), handle.without_noise():
        for number, start in enumerate(range(0, len(examples), micro_batch)):
            part = [(example.prompt, example.answer) for example in examples[start : start + micro_batch]]
            with handle.one_draw(), handle.tap.listening(keep):
                log_p, _, scored = answer_log_probabilities(handle.model, part)
            generator = torch.Generator(log_p.device).manual_seed(mix_int(seed, number) & 0x7FFFFFFF)
            for draw in range(draws):
                drawn = torch.multinomial(log_p.detach().exp().flatten(0, 1), 1, generator=generator)
                chosen = log_p.gather(-1, drawn.view(*scored.shape, 1))[..., 0]
                (chosen * scored).sum().backward(retain_graph=draw + 1 < draws)
                for layer, (mean, hidden, mask) in seen.items():
                    assert mean.grad is not None
                    by_question = mean.grad.view(*mask.shape, -1)
                    inputs = hidden.view(*mask.shape, -1)
                    gradient = handle.head(layer).logit_scale * torch.einsum("bte,bth->beh", by_question, inputs)
                    totals[layer] = totals.get(layer, 0.0) + gradient.square().sum(0) / draws
                    mean.grad = None
            seen.clear()
    handle.routers.zero_grad(set_to_none=True)
    return totals
