"""Routing leverage: what uniformly random routing in a layer costs. Where it costs nothing, no router can help.

Random routing gives every token k experts drawn uniformly without replacement, with the native weights' sum shared
equally. Removing the block's output is the second control: it tells "wrong experts hurt" from "the block matters".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vmoer.architectures import RouterSite
from vmoer.errors import LayerSelectionError
from vmoer.forward.decision import Decision
from vmoer.forward.frame import Frame
from vmoer.forward.hooks import tap_of
from vmoer.forward.modes import evaluation
from vmoer.rng import TokenNoise, mix, mix_int
from vmoer.scoring.options import OptionScores

Intervention = Literal["random-routing", "zero-block"]

_STREAM = 1_000_081


@dataclass(frozen=True)
class LeverageResult:
    """Probability of the right option under each draw ``[draws, questions]`` and whether it was the most probable."""

    layers: list[int]
    intervention: str
    correct: NDArray[np.float64]
    nll: NDArray[np.float64]


@contextmanager
def random_routing(model: nn.Module, layers: Sequence[int], seed: int) -> Iterator[None]:
    """Route the given layers uniformly at random inside the block; same seed and token, same experts."""
    tap = tap_of(model)
    sites = _sites(model, layers)

    def randomise(site: RouterSite, decision: Decision, frame: Frame) -> tuple[Tensor, Tensor]:
        keys = mix(frame.keys.reshape(-1) ^ mix_int(seed, _STREAM, site.layer))
        index = TokenNoise(keys).uniform(1, site.n_experts)[0].topk(site.top_k, dim=-1).indices
        weight = decision.weight.sum(-1, keepdim=True).expand_as(decision.weight) / site.top_k
        return weight.to(decision.weight.dtype), index.to(decision.index.dtype)

    with tap.overriding({site.layer: randomise for site in sites}):
        yield


@contextmanager
def zero_block(model: nn.Module, layers: Sequence[int]) -> Iterator[None]:
    """Remove the output of the MoE blocks of the given layers inside the block (the residual path stays)."""

    def silence(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        return torch.zeros_like(output)

    hooks = [site.block.register_forward_hook(silence) for site in _sites(model, layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure(
    model: nn.Module,
    score: Callable[[], list[OptionScores]],
    answers: Sequence[int],
    layers: Sequence[int],
    intervention: Intervention = "random-routing",
    draws: int = 3,
    seed: int = 0,
) -> LeverageResult:
    """Outcome of every question with ``layers`` under ``intervention``; ``score`` answers all questions once.

    ``zero-block`` has nothing random, so it is run once whatever ``draws`` says. An empty ``layers`` gives the
    undisturbed reference.
    """
    correct, nll = [], []
    for draw in range(draws if layers and intervention == "random-routing" else 1):
        if not layers:
            results = score()
        elif intervention == "random-routing":
            with random_routing(model, layers, mix_int(seed, draw)):
                results = score()
        else:
            with zero_block(model, layers):
                results = score()
        probability = [result.probabilities()[0] for result in results]
        correct.append([float(p.argmax() == a) for p, a in zip(probability, answers, strict=True)])
        nll.append([-float(np.log(max(p[a], 1e-300))) for p, a in zip(probability, answers, strict=True)])
    return LeverageResult(list(layers), intervention, np.array(correct), np.array(nll))


def token_nll_rise(
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]], draws: int = 3, seed: int = 0
) -> list[float]:
    """Rise of the mean next-token NLL (nats) per MoE layer when that layer alone is routed at random."""
    layers = [site.layer for site in tap_of(model).sites]
    reference = next_token_nll(model, batches)
    rises = []
    for layer in layers:
        values = []
        for draw in range(draws):
            with random_routing(model, [layer], mix_int(seed, draw)):
                values.append(next_token_nll(model, batches))
        rises.append(float(np.mean(values)) - reference)
    return rises


def next_token_nll(model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> float:
    """Mean negative log-likelihood (nats) of each real token given the real tokens before it."""
    total = 0.0
    count = 0
    with evaluation(model), torch.inference_mode():
        for batch in batches:
            log_p = model(**batch).logits[:, :-1].float().log_softmax(-1)
            target = batch["input_ids"][:, 1:]
            mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
            real = mask[:, 1:] & mask[:, :-1]
            total -= float(log_p.gather(-1, target[..., None])[..., 0][real].sum())
            count += int(real.sum())
    return total / max(count, 1)


def _sites(model: nn.Module, layers: Sequence[int]) -> list[RouterSite]:
    sites = {site.layer: site for site in tap_of(model).sites}
    unknown = [layer for layer in layers if layer not in sites]
    if unknown:
        raise LayerSelectionError(f"Layer {unknown[0]} is not an MoE layer of this model.")
    return [sites[layer] for layer in layers]
