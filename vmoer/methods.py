"""The table of routing methods: what everyone but a method's own file needs to know of it, without loading torch.

A new built-in method is one file in ``vmoer/routers`` and one line here. A third party's method registers itself
(:mod:`vmoer.registry`); what is not in this table is taken to have parameters and a KL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Space = Literal["none", "weights", "logits", "selection"]


@dataclass(frozen=True)
class Method:
    """One built-in routing method."""

    name: str
    path: str
    """``module:class`` of its router."""
    space: Space
    """What its posterior is over."""
    trainable: bool = True
    """Whether its router has parameters."""
    has_kl: bool = False
    """Whether training has a KL term, so that β = 0 is another training."""
    closed_form: bool = False
    """Whether the expected routing exists without sampling."""
    keeps_last: bool = False
    """Whether training keeps its last weights, not those with the best validation NLL."""


#: from the plain model upwards, the order of lists and tables
METHODS = (
    Method("deterministic", "vmoer.routers.deterministic:DeterministicRouter", "none", False, False, True),
    Method("temperature", "vmoer.routers.temperature:TemperatureRouter", "selection", False),
    Method("mcdr", "vmoer.routers.mcdr:DropoutRouter", "weights"),
    Method("swagr", "vmoer.routers.swagr:SwagRouter", "weights", closed_form=True, keeps_last=True),
    Method("der", "vmoer.routers.der:EnsembleRouter", "weights", closed_form=True),
    Method("laplace", "vmoer.routers.laplace:LaplaceRouter", "weights", closed_form=True),
    Method("mfvr", "vmoer.routers.mfvr:MeanFieldRouter", "logits", has_kl=True, closed_form=True),
    Method("fcvr-lowrank", "vmoer.routers.lowrank:LowRankRouter", "logits", has_kl=True, closed_form=True),
    Method("fcvr", "vmoer.routers.fcvr:FullCovarianceRouter", "logits", has_kl=True, closed_form=True),
    Method("vtsr", "vmoer.routers.vtsr:VariationalTemperatureRouter", "selection", has_kl=True),
)

#: by how much a validation NLL must fall below the best so far for its weights to be kept, nats
MARGIN = 1e-4

_BY_NAME = {method.name: method for method in METHODS}


def trainable(name: str) -> bool:
    """Return whether a method has parameters to train; one that is not built in is taken to have some."""
    return name not in _BY_NAME or _BY_NAME[name].trainable


def has_kl(name: str) -> bool:
    """Return whether a method is trained with a KL term; one that is not built in is taken to be."""
    return name not in _BY_NAME or _BY_NAME[name].has_kl


def has_prior_covariance(name: str) -> bool:
    """Return whether a method's prior has a covariance of the logits that can stand around its trained mean."""
    return name in _BY_NAME and _BY_NAME[name].has_kl and _BY_NAME[name].space == "logits"


def kept_step(checks: Sequence[tuple[int, float]], name: str) -> int:
    """Return the step whose weights a training of a method has kept, from its checks ``(step, validation NLL)``.

    For logs that do not say it themselves; not for progressive training, which passes over its first checks.
    """
    kept, best = sorted(checks)[0]
    for step, nll in sorted(checks):
        if nll < best - MARGIN:
            kept, best = step, nll
    return max(step for step, _ in checks) if name in _BY_NAME and _BY_NAME[name].keeps_last else kept


def rank(name: str) -> int:
    """Return a method's place in lists, from the plain model upwards; one that is not built in comes last."""
    return list(_BY_NAME).index(name) if name in _BY_NAME else len(_BY_NAME)
