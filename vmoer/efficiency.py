"""What a Bayesian router costs, from formulas: multiply–accumulates (MACs) per token and layer, and parameters.

MACs of matrix products only, as FLOP counters do; drawing random numbers, softmax and top-k are left out, and so are
attention scores (they grow with the context, the rest does not) and what is drawn once per call for all its tokens (the
weights of ``swagr`` and ``laplace``: S·H·E numbers). Wall-clock time is another matter: many small kernels
cost more than their MACs (``benchmarks/router_overhead.py`` measures it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vmoer.errors import UnknownNameError
from vmoer.registry import unknown_name
from vmoer.skeleton import skeleton_from_config

#: members of an ensemble unless the router says otherwise, columns of a low-rank covariance likewise
_MEMBERS, _RANK = 4, 8


@dataclass(frozen=True)
class HeadSize:
    """Sizes that decide the cost of one head: hidden H, experts E, trunk D, samples S, rank r, members M.

    ``mean_width`` is what the residual mean reads: D numbers of a shared trunk, or the H of the router's input.
    """

    hidden: int
    experts: int
    trunk: int
    samples: int
    mean_width: int
    rank: int = _RANK
    members: int = _MEMBERS

    @property
    def weight(self) -> int:
        """Entries of a router weight, H·E: also the MACs of one product with it."""
        return self.hidden * self.experts

    @property
    def triangle(self) -> int:
        """Entries of a Cholesky factor, E(E+1)/2."""
        return self.experts * (self.experts + 1) // 2


def _low_rank(size: HeadSize) -> int:
    """Parameters of ``fcvr-lowrank``: trunk, mean, diagonal and r columns."""
    return size.trunk * (size.hidden + size.experts * (2 + size.rank))


#: method → (trainable parameters, MACs per token of one in-router head)
_COSTS: dict[str, tuple[Callable[[HeadSize], int], Callable[[HeadSize], int]]] = {
    "deterministic": (lambda s: 0, lambda s: 0),
    "temperature": (lambda s: 0, lambda s: s.experts),
    "mcdr": (lambda s: s.weight, lambda s: s.weight + 2 * s.samples * s.weight),
    "swagr": (
        lambda s: s.weight,
        lambda s: s.weight * (1 + s.samples + s.rank) + s.samples * s.rank * s.experts,
    ),
    "der": (lambda s: s.members * s.weight, lambda s: s.members * s.weight),
    "laplace": (lambda s: s.weight, lambda s: s.weight + s.samples * s.weight),
    "mfvr": (
        lambda s: s.mean_width * s.experts + s.trunk * (s.hidden + s.experts),
        lambda s: s.mean_width * s.experts + s.trunk * (s.hidden + s.experts) + s.samples * s.experts,
    ),
    "fcvr": (
        lambda s: s.mean_width * s.experts + s.trunk * (s.hidden + s.triangle),
        lambda s: s.mean_width * s.experts + s.trunk * (s.hidden + s.triangle) + s.samples * s.experts**2,
    ),
    "fcvr-lowrank": (_low_rank, lambda s: _low_rank(s) + s.samples * s.experts * (s.rank + 1)),
    "vtsr": (lambda s: s.trunk * (s.hidden + 2) + 1, lambda s: s.trunk * (s.hidden + 1) + s.experts),
}

#: trunk width of a method as a fraction of the hidden size, 1/4 unless listed
_TRUNK = {"fcvr-lowrank": 8}

#: columns of ``swagr``'s deviations, which no number of experts limits
_SNAPSHOT_RANK = 10


def head_size(
    config: Any, samples: int = 35, method: str = "fcvr", options: Mapping[str, Any] | None = None
) -> HeadSize:
    """Sizes of a head of ``method`` on the model of a Hugging Face ``config``: its ``options``, else defaults."""
    model = skeleton_from_config(config)
    hidden, experts = model.hidden_size, model.n_experts
    given = {name: value for name, value in (options or {}).items() if value is not None}
    trunk = given.get("trunk_width", max(hidden // _TRUNK.get(method, 4), 1))
    shared = given.get("trunk", "separate" if method == "mfvr" else "shared") == "shared"
    rank = given.get("rank", _SNAPSHOT_RANK if method == "swagr" else min(_RANK, experts))
    return HeadSize(hidden, experts, trunk, samples, trunk if shared else hidden, rank, given.get("members", _MEMBERS))


def extra_parameters(method: str, size: HeadSize) -> int:
    """Trainable parameters of one router head."""
    return _cost(method)[0](size)


def extra_macs(method: str, size: HeadSize) -> int:
    """MACs per token that one in-router head adds to its layer (S = 1 for a single draw)."""
    return _cost(method)[1](size)


def layer_macs(config: Any) -> tuple[int, ...]:
    """MACs per token of each decoder layer: attention, router, k of E experts and what is shared; dense layers too."""
    return skeleton_from_config(config).layer_macs


def model_macs(config: Any) -> int:
    """MACs per token of the whole model, language-model head included."""
    return skeleton_from_config(config).macs


def extra_share(config: Any, method: str, layers: int, samples: int = 35) -> float:
    """MACs added by ``layers`` in-router heads as a fraction of the deterministic model's."""
    return layers * extra_macs(method, head_size(config, samples, method=method)) / model_macs(config)


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
    draw = len(layers) * extra_macs(method, head_size(config, 1, method, options))
    head = skeleton_from_config(config).head_macs
    native = (prompt + answers) * (below + above) + answered * head
    if positions == "all":
        found = (prompt + answers) * (below + samples * (above + draw)) + samples * answered * head
    else:
        average = len(layers) * extra_macs(method, head_size(config, samples, method, options))
        found = (prompt - 1) * (below + above + average) + answered * (below + samples * (above + draw + head))
    return found / native


def methods_with_costs() -> list[str]:
    """Methods that have a cost formula (a third party's own has none)."""
    return sorted(_COSTS)


def _cost(method: str) -> tuple[Callable[[HeadSize], int], Callable[[HeadSize], int]]:
    if method not in _COSTS:
        raise UnknownNameError(unknown_name("method with a cost formula", method, sorted(_COSTS)))
    return _COSTS[method]
