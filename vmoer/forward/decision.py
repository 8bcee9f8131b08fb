"""From a posterior to one routing decision: the in-router estimator and the single draw.

*In-router* (thesis eq. for MFVR/FCVR inference): S logit samples, the family's probabilities of each (softmax, or one
sigmoid per expert), averaged, then top-k once; gates follow the family's rule on the logits of the average. *Closed
form*: the same average without sampling (softmax families). *Single draw*: one sample per token decides; this is what
training uses, and what the predictive estimator carries through the layers above, many times.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vmoer.architectures import Architecture, RouterSite
from vmoer.rng import TokenNoise
from vmoer.routers.base import Posterior
from vmoer.routers.expected_softmax import FLOATS

#: floats drawn at once per router call; bounds memory at about 4 × 4 bytes × this
DRAW_BUDGET = 4_000_000


@dataclass
class Decision:
    """One router call. Shapes: ``[tokens, experts]`` for logits and scores, ``[tokens, k]`` for weight and index.

    ``logits`` are the routing logits the native tuple reports, ``scores`` the logits that selection was asked with; the
    ``base_`` fields are the native router's own decision for the same input. ``variance_mc`` is ``[tokens]`` or
    ``None``; ``hidden`` is the router's input ``[tokens, hidden]``.
    """

    logits: Tensor
    weight: Tensor
    index: Tensor
    scores: Tensor
    base_logits: Tensor
    base_index: Tensor
    posterior: Posterior | None = None
    variance_mc: Tensor | None = None
    hidden: Tensor | None = None


def native(logits: Tensor, weight: Tensor, index: Tensor) -> Decision:
    """The native router's decision, unchanged."""
    return Decision(logits, weight, index, logits, logits, index)


def decide(
    architecture: Architecture,
    site: RouterSite,
    posterior: Posterior,
    base: tuple[Tensor, Tensor, Tensor],
    noise: TokenNoise,
    samples: int | None,
) -> Decision:
    """Routing decision under ``posterior``: averaged over ``samples`` draws, in closed form when ``samples`` is 0, or
    one draw when it is ``None``.

    Tokens whose draws all equal the native logits keep the native weights and indices bit for bit: a posterior without
    width or shift *is* the native router.
    """
    base_logits, base_weight, base_index = base
    if not posterior.stochastic:
        return native(base_logits, base_weight, base_index)
    variance_mc = None
    if posterior.gate_logits is not None:
        scores = posterior.draw(1, noise)[0]
        untouched = (scores == base_logits).all(-1)
        logits = posterior.gate_logits
    elif samples is None:
        scores = logits = posterior.draw(1, noise)[0]
        untouched = (scores == base_logits).all(-1)
    else:
        if samples == 0:
            mean_probability, untouched = _expectation(posterior, base_logits)
        else:
            mean_probability, untouched, variance_mc = _average(architecture, posterior, base_logits, noise, samples)
        scores = logits = architecture.logits_of(mean_probability)
    if scores.requires_grad:
        untouched = torch.zeros_like(untouched)  # a posterior that starts as the native router must be able to leave it
    index = architecture.select(site, scores)
    weight = architecture.gates(site, logits, index)
    inclusion = posterior.inclusion(scores) if scores.requires_grad else None
    if inclusion is not None:
        chosen = inclusion.gather(-1, index)
        weight = weight * (1.0 + (chosen - chosen.detach()))
    weight = weight.to(base_weight.dtype)
    keep = untouched[:, None]
    return Decision(
        logits=torch.where(keep, base_logits, logits),
        weight=torch.where(keep, base_weight, weight),
        index=torch.where(keep, base_index, index),
        scores=torch.where(keep, base_logits, scores),
        base_logits=base_logits,
        base_index=base_index,
        posterior=posterior,
        variance_mc=variance_mc,
    )


def _average(
    architecture: Architecture, posterior: Posterior, base_logits: Tensor, noise: TokenNoise, samples: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mean probabilities ``[tokens, experts]``, untouched tokens ``[tokens]``, summed sample variance ``[tokens]``."""
    tokens = base_logits.shape[0]
    if posterior.support is not None:
        samples = min(samples, posterior.support)
    step = max(DRAW_BUDGET // (samples * posterior.floats), 1)
    means, untouched, variances = [], [], []
    for start in range(0, tokens, step):
        stop = min(start + step, tokens)
        draws = posterior.chunk(start, stop).draw(samples, noise.chunk(start, stop))
        means.append(architecture.probabilities(draws).mean(0))
        untouched.append((draws == base_logits[start:stop]).view(torch.uint8).amin(0).amin(-1).bool())
        if samples > 1:
            variances.append(_variance(draws))
    return torch.cat(means), torch.cat(untouched), torch.cat(variances) if variances else None


def _variance(draws: Tensor) -> Tensor:
    """Sample variance over ``[samples, tokens, experts]``, summed over experts: ``[tokens]``, 0 for equal draws.

    Ten times faster than ``draws.var(0)``, whose one pass over strided samples is not vectorised.
    """
    centred = draws - draws[0]
    centred = centred - centred.mean(0)
    return centred.square().sum(0).sum(-1) / (len(draws) - 1)


def _expectation(posterior: Posterior, base_logits: Tensor) -> tuple[Tensor, Tensor]:
    """E[softmax] ``[tokens, experts]`` without sampling, and the tokens it leaves untouched ``[tokens]``."""
    tokens, experts = base_logits.shape
    step = max(DRAW_BUDGET // (experts * max(FLOATS, experts)), 1)
    means, untouched = [], []
    for start in range(0, tokens, step):
        part = posterior.chunk(start, min(start + step, tokens))
        mean, variance = part.expectation(), part.variance()
        assert mean is not None, "handles refuse the closed form for methods without one"
        same = (part.mean == base_logits[start : start + step]).all(-1)
        means.append(mean)
        untouched.append(same if variance is None else same & (variance == 0))
    return torch.cat(means), torch.cat(untouched)
