"""Which tokens make a routing decision uncertain: Captum attributions of a router quantity at one token and layer.

A *target* maps token ids ``[rows, T]`` to one number per row. It must be a function of the ids alone, so sampled
routing takes the same draws for every perturbed prompt (:class:`vmoer.forward.hooks.Mode` ``common``) and the logit
variance is the closed-form one. Replacing tokens by ``baseline`` changes the target from f(prompt) to f(baseline);
attributions explain that difference, and how much of it they leave unexplained is part of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vmoer.architectures import RouterSite
from vmoer.errors import LayerSelectionError, UnknownNameError, VmoerError
from vmoer.forward.decision import Decision
from vmoer.forward.frame import Frame
from vmoer.forward.hooks import tap_of
from vmoer.forward.modes import evaluation
from vmoer.registry import unknown_name

Quantity = Literal["logit_variance", "routing_entropy", "expert_logit"]
Algorithm = Literal["ablation", "shapley"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)

#: share of the difference that may stay unexplained before attributions must not be shown as adding up
COMPLETE_WITHIN = 0.10

Target = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Attribution:
    """``values [T]`` in the unit of the target; ``spread [T]`` is their standard error, NaN where nothing is sampled.

    ``value`` is f(prompt), ``baseline_value`` f(all tokens replaced), ``rows`` how many prompts the target was asked.
    """

    algorithm: Algorithm
    values: NDArray[np.float64]
    spread: NDArray[np.float64]
    value: float
    baseline_value: float
    rows: int

    @property
    def delta(self) -> float:
        """What the values do not explain: their sum minus (f(prompt) − f(baseline))."""
        return float(self.values.sum() - (self.value - self.baseline_value))

    @property
    def incomplete(self) -> float:
        """|delta| as a fraction of |f(prompt) − f(baseline)|; infinite when the baseline changes nothing."""
        change = abs(self.value - self.baseline_value)
        return abs(self.delta) / change if change > 1e-12 else (0.0 if abs(self.delta) <= 1e-12 else float("inf"))

    @property
    def complete(self) -> bool:
        """Whether the values may be read as parts of a whole (within :data:`COMPLETE_WITHIN`)."""
        return self.incomplete <= COMPLETE_WITHIN


def attribute(
    model: nn.Module,
    input_ids: Tensor,
    *,
    layer: int,
    position: int = -1,
    quantity: Quantity = "logit_variance",
    expert: int | None = None,
    attention_mask: Tensor | None = None,
    baseline: int = 0,
    algorithm: Algorithm = "ablation",
    permutations: int = 25,
    seed: int = 0,
    batch_tokens: int = 4096,
    check: Callable[[int], None] | None = None,
) -> Attribution:
    """What each token contributes to a router quantity at token ``position`` (−1 = last) of MoE layer ``layer``.

    ``model`` routes as it stands, so with active Bayesian routers the quantity is theirs. ``input_ids`` is one prompt
    ``[T]`` or ``[1, T]``; padding, on either side, is dropped by ``attention_mask``, and the result is over real tokens
    up to ``position`` (later ones cannot matter to a causal model). ``quantity``: ``logit_variance`` (closed form;
    needs a method that has one), ``routing_entropy`` (nats), ``expert_logit`` (of ``expert``, by default the one chosen
    first). ``ablation`` is the effect of replacing one token by the id ``baseline`` (T + 2 prompts, rarely complete);
    ``shapley`` averages over ``permutations`` orders (``permutations`` × T prompts, complete by construction).
    """
    ids = input_ids.reshape(-1)
    if attention_mask is not None:
        ids = ids[attention_mask.reshape(-1).bool()]
    if not -len(ids) <= position < len(ids):
        raise VmoerError(f"Token {position} was asked for; the prompt has {len(ids)} tokens.")
    ids = ids[: position % len(ids) + 1]
    target = routing_target(model, layer, quantity, expert=expert, of=ids)
    return explain(
        target,
        ids,
        baseline=baseline,
        algorithm=algorithm,
        permutations=permutations,
        seed=seed,
        rows=max(batch_tokens // len(ids), 1),
        check=check,
    )


def routing_target(
    model: nn.Module, layer: int, quantity: Quantity, *, of: Tensor, expert: int | None = None
) -> Target:
    """The quantity at the last token of layer ``layer`` as a function of ids ``[rows, T]``; ``of [T]`` is the prompt.

    ``of`` fixes the expert of ``expert_logit`` when none is named: the one this prompt chooses first.
    """
    tap = tap_of(model)
    if quantity not in QUANTITIES:
        raise UnknownNameError(unknown_name("quantity", quantity, list(QUANTITIES)))
    sites = {site.layer: site for site in tap.sites}
    if layer not in sites:
        raise LayerSelectionError(
            f"Layer {layer} is not an MoE layer of this model; it has {', '.join(map(str, sites))}."
        )
    if expert is not None and not 0 <= expert < sites[layer].n_experts:
        raise VmoerError(f"Expert {expert} does not exist in layer {layer}; it has {sites[layer].n_experts}.")

    def decisions(ids: Tensor) -> Decision:
        seen: list[Decision] = []

        def keep(site: RouterSite, decision: Decision, _frame: Frame) -> None:
            if site.layer == layer:
                seen.append(decision)

        with evaluation(model), torch.inference_mode(), tap.using(common=True), tap.listening(keep):
            model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=1)
        return seen[0]

    first = decisions(of[None])
    if quantity == "logit_variance" and (first.posterior is None or first.posterior.variance() is None):
        raise VmoerError(
            f"Layer {layer} routes without a logit variance in closed form; use routing_entropy, "
            "or a method that has one (mfvr, fcvr) in this layer."
        )
    chosen = int(first.index[-1, first.scores[-1, first.index[-1]].argmax()]) if expert is None else expert

    def target(ids: Tensor) -> Tensor:
        decision = decisions(ids)
        last = slice(ids.shape[1] - 1, None, ids.shape[1])
        if quantity == "logit_variance":
            assert decision.posterior is not None
            variance = decision.posterior.variance()
            assert variance is not None
            return variance[last].double()
        logits = decision.logits[last].double()
        if quantity == "routing_entropy":
            return torch.special.entr(tap.architecture.log_distribution(logits).exp()).sum(-1)
        return logits[:, chosen]

    return target


def explain(
    target: Target,
    ids: Tensor,
    *,
    baseline: int,
    algorithm: Algorithm = "ablation",
    permutations: int = 25,
    seed: int = 0,
    rows: int = 32,
    check: Callable[[int], None] | None = None,
) -> Attribution:
    """Attribute ``target`` at the prompt ``ids [T]``; ``rows`` prompts are asked at once.

    ``check`` gets the number of prompts asked so far before each question and may raise to stop.
    """
    if algorithm not in ALGORITHMS:
        raise UnknownNameError(unknown_name("algorithm", algorithm, list(ALGORITHMS)))
    if permutations < 2:
        raise VmoerError(f"At least 2 permutations are needed, not {permutations}.")
    asked = 0

    def counted(batch: Tensor) -> Tensor:
        nonlocal asked
        if check is not None:
            check(asked)
        asked += len(batch)
        return target(batch)

    replaced = torch.full_like(ids, baseline)
    ends = counted(torch.stack([ids, replaced]))
    if algorithm == "ablation":
        values, spread = _ablation(counted, ids, replaced, rows), np.full(len(ids), np.nan)
    else:
        values, spread = _shapley(counted, ids, replaced, rows, permutations, seed)
    return Attribution(algorithm, values, spread, float(ends[0]), float(ends[1]), asked)


def _ablation(target: Target, ids: Tensor, replaced: Tensor, rows: int) -> NDArray[np.float64]:
    """f(prompt) − f(prompt with one token replaced), per token."""
    from captum.attr import FeatureAblation

    found = FeatureAblation(target).attribute(ids[None], baselines=replaced[None], perturbations_per_eval=rows)
    return np.asarray(found[0].double().cpu().numpy())


def _shapley(
    target: Target, ids: Tensor, replaced: Tensor, rows: int, permutations: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over random orders of what a token changes when it joins those before it, and its standard error."""
    from captum.attr import ShapleyValueSampling

    generator = torch.Generator().manual_seed(seed)
    sampler = ShapleyValueSampling(target)
    # captum would shuffle with the global generator
    sampler.permutation_generator = lambda features, samples: (
        torch.randperm(features, generator=generator).tolist() for _ in range(samples)
    )
    orders = [
        sampler.attribute(ids[None], baselines=replaced[None], n_samples=1, perturbations_per_eval=rows)[0]
        for _ in range(permutations)
    ]
    found = torch.stack(orders).double().cpu().numpy()
    return found.mean(0), found.std(0, ddof=1) / permutations**0.5
