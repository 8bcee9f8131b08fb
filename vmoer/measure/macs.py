"""Count what Bayesian routers cost: multiply–accumulates (MACs) per token and layer, and parameters.

MACs of matrix products only, as FLOP counters do; drawing random numbers, softmax and top-k are left out, and so are
attention scores (they grow with the context, the rest does not) and what is drawn once per call for all its tokens (the
weights of ``swagr`` and ``laplace``: S·H·E numbers). Wall-clock time is another matter: many small kernels
cost more than their MACs (``benchmarks/router_overhead.py`` measures it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vmoer.errors import VmoerError
from vmoer.models.skeleton import skeleton_from_config
from vmoer.routers.base import BayesianRouter, RouterShape, routers


class UncountedError(VmoerError):
    """A method whose router does not say what it costs."""


def head_of(config: Any, method: str, options: Mapping[str, Any] | None = None) -> BayesianRouter:
    """Return a head of ``method`` for the model of a Hugging Face ``config``, without memory (on the meta device)."""
    model = skeleton_from_config(config)
    shape = RouterShape(model.hidden_size, model.n_experts, model.top_k)
    with torch.device("meta"):
        return routers.get(method)(shape, generator=torch.Generator(device="cpu"), **(options or {}))


def extra_parameters(head: BayesianRouter) -> int:
    """Return the number of trainable parameters of one head."""
    return sum(parameter.numel() for parameter in head.parameters())


def layer_macs(config: Any) -> tuple[int, ...]:
    """MACs per token of each decoder layer: attention, router, k of E experts and what is shared; dense layers too."""
    return skeleton_from_config(config).layer_macs


def model_macs(config: Any) -> int:
    """MACs per token of the whole model, language-model head included."""
    return skeleton_from_config(config).macs


def extra_share(config: Any, method: str, layers: int, samples: int = 35) -> float:
    """MACs added by ``layers`` in-router heads as a fraction of the deterministic model's."""
    return layers * counted(head_of(config, method), samples) / model_macs(config)


def counted(head: BayesianRouter, samples: int) -> int:
    """Return the MACs per token that a head adds to its layer; raise where its method does not count them."""
    macs = head.macs(samples)
    if macs is None:
        raise UncountedError(f"Method {head.method!r} does not say what it costs; give its router a method macs.")
    return macs


def predictive_ratio(
    config: Any,
    method: str,
    layers: list[int],
    samples: int = 35,
    prompt: float = 1,
    answers: float = 0,
    positions: str = "all",
    options: Mapping[str, Any] | None = None,
) -> float:
    """MACs of answering a question under the predictive estimator ÷ the deterministic model's.

    ``prompt`` tokens, then ``answers`` tokens of options that are run after it (Σ over options of length − 1); the
    language-model head answers 1 + ``answers`` positions. Layers from the first router up run S times: at all
    positions, or (``positions="scored"``) only at those answered, the prompt before them once with averaged routers.
    """
    first, answered = min(layers), 1 + answers
    macs = layer_macs(config)
    below, above = sum(macs[:first]), sum(macs[first:])
    router = head_of(config, method, options)
    draw = len(layers) * counted(router, 1)
    head = skeleton_from_config(config).head_macs
    native = (prompt + answers) * (below + above) + answered * head
    if positions == "all":
        found = (prompt + answers) * (below + samples * (above + draw)) + samples * answered * head
    else:
        average = len(layers) * counted(router, samples)
        found = (prompt - 1) * (below + above + average) + answered * (below + samples * (above + draw + head))
    return found / native
