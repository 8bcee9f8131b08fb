"""The contract of a Bayesian router: a posterior over what top-k sees, given the router's input and native logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vmoer.methods import METHODS
from vmoer.registry import Registry
from vmoer.rng import TokenNoise


@dataclass(frozen=True)
class RouterShape:
    """Sizes a router head is built for."""

    hidden_size: int
    n_experts: int
    top_k: int

    @property
    def weights(self) -> int:
        """Entries of a router's weight, H·E: also the MACs of one product with it."""
        return self.hidden_size * self.n_experts


@dataclass
class Posterior(ABC):
    """Distribution of one router's logits for a batch of tokens; all tensors float32.

    ``mean`` is ``[tokens, experts]``. A *logit-space* posterior draws logits: gates follow from them, and in-router
    averaging is over their softmax. A *selection-space* posterior (``gate_logits`` set) draws selection scores only;
    the gates are those of ``gate_logits`` at the drawn experts, and nothing is averaged inside the router.
    """

    mean: Tensor
    gate_logits: Tensor | None = field(default=None, kw_only=True)
    temperature: Tensor | None = field(default=None, kw_only=True)

    #: False for a point mass on the native logits
    stochastic: ClassVar[bool] = True
    #: a subclass's own fields that hold a value per token, each with its axis of tokens
    token_axes: ClassVar[tuple[tuple[str, int], ...]] = ()

    @property
    def support(self) -> int | None:
        """How many different draws there are, when they can be counted: no estimator takes more."""
        return None

    @property
    def floats(self) -> int:
        """Numbers held per token and draw, which bounds how many tokens draw at once."""
        return self.mean.shape[-1]

    @abstractmethod
    def draw(self, samples: int, noise: TokenNoise) -> Tensor:
        """Draws ``[samples, tokens, experts]``; differentiable in the posterior's parameters."""

    def expectation(self) -> Tensor | None:
        """E[softmax of the logits] ``[tokens, experts]`` without sampling; ``None`` where there is no such form."""
        return None

    def inclusion(self, scores: Tensor) -> Tensor | None:
        """A soft indicator ``[tokens, experts]`` of being chosen by ``scores``, through which selection learns.

        Only its gradient is used (straight-through); ``None`` where gates alone teach the method.
        """
        return None

    def variance(self) -> Tensor | None:
        """Trace of the covariance of the logits per token ``[tokens]``, analytic; ``None`` where there is none."""
        return None

    def kl(self) -> Tensor | None:
        """KL divergence to the prior per token ``[tokens]`` in nats; ``None`` for methods without a prior."""
        return None

    def chunk(self, start: int, stop: int) -> Self:
        """Return the posterior of tokens ``start`` to ``stop`` (for bounded memory)."""
        parts = {}
        for name, axis in (("mean", 0), ("gate_logits", 0), ("temperature", 0), *self.token_axes):
            if (value := getattr(self, name)) is not None:
                parts[name] = value[(slice(None),) * axis + (slice(start, stop),)]
        return replace(self, **parts)


class BayesianRouter(nn.Module, ABC):
    """Head beside one native router. It keeps no state between calls; its parameters are float32.

    ``logit_scale`` is the native router's own logit spread: posteriors and priors are expressed in units of it, so that
    one prior width means the same for a sharp and a flat router. ``generator`` draws the initial weights of trainable
    methods. ``noise_scale`` multiplies the posterior's standard
    deviation when sampling; 0 leaves its mean.
    """

    #: registry name, set by subclasses
    method: str = ""
    #: True when the method has parameters to train
    trainable: bool = True
    #: True when posteriors have an :meth:`Posterior.expectation`
    closed_form: ClassVar[bool] = False
    #: trained on its mean, without noise: the spread is fitted afterwards
    fits_variance_after: ClassVar[bool] = False
    #: :meth:`finish_training` is given the curvature at the trained weights
    needs_curvature: ClassVar[bool] = False
    #: the path of training is the result: constant learning rate, no early stop, the last weights are kept
    keeps_last_weights: ClassVar[bool] = False
    #: layers of the head that are zero where the posterior has the prior's covariance; empty without a prior covariance
    spread_heads: ClassVar[tuple[str, ...]] = ()
    #: constructor options as a checkpoint means them that was written before they existed
    earlier_options: ClassVar[Mapping[str, Any]] = {}
    #: members of an ensemble, each trained on its own order of the data; ``None`` for one posterior
    support: int | None = None

    logit_scale: Tensor
    noise_scale: Tensor

    def __init__(
        self,
        shape: RouterShape,
        *,
        generator: torch.Generator | None = None,
        logit_scale: float = 1.0,
        noise_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not logit_scale > 0:
            raise ValueError(f"logit_scale must be positive, not {logit_scale}.")
        if not noise_scale >= 0:
            raise ValueError(f"noise_scale must be 0 or more, not {noise_scale}.")
        self.shape = shape
        self.register_buffer("logit_scale", torch.tensor(float(logit_scale)))
        self.register_buffer("noise_scale", torch.tensor(float(noise_scale)))

    @abstractmethod
    def posterior(self, hidden: Tensor, base_logits: Tensor) -> Posterior:
        """Posterior for router inputs ``[tokens, hidden]`` and native logits ``[tokens, experts]`` (both float32)."""

    def bind(self, native: Callable[[Tensor], Tensor]) -> None:
        """Told once which router stands beside: ``native`` maps other inputs ``[n, hidden]`` to its logits."""

    def after_step(self, step: int, total: int) -> None:
        """Called after each optimiser step (1 … ``total``)."""

    def finish_training(self, curvature: Tensor | None) -> dict[str, float]:
        """Fit what gradients do not, when training has ended; return log values by quantity.

        ``curvature`` ``[experts, hidden]`` is the Fisher diagonal of the answers in the router's weights, summed over
        the training questions; ``None`` unless :attr:`needs_curvature`.
        """
        return {}

    def set_prior_covariance(self) -> None:
        """Give the posterior the prior's covariance and leave its mean; ``ValueError`` for a method without one."""
        if not self.spread_heads:
            raise ValueError(f"Method {self.method!r} has no prior covariance.")
        with torch.no_grad():
            for name in self.spread_heads:
                for parameter in getattr(self, name).parameters():
                    parameter.zero_()

    def macs(self, samples: int) -> int | None:
        """Return the MACs per token of one in-router decision over ``samples`` draws; ``None`` where nobody counted.

        Matrix products only: random numbers, softmax, top-k and the native router itself are left out.
        """
        return None

    def options(self) -> dict[str, Any]:
        """Constructor options that differ between checkpoints (JSON values); scales are saved as tensors."""
        return {}


def linear(
    rows: int, columns: int, generator: torch.Generator, std: float | None = None, bias: bool = False
) -> nn.Linear:
    """``columns → rows`` layer from ``generator``: N(0, std²), or uniform ±columns^−½ when ``None``; biases are 0."""
    layer = nn.utils.skip_init(nn.Linear, columns, rows, bias=bias)
    with torch.no_grad():
        if bias:
            layer.bias.zero_()
        if std is None:
            bound = columns**-0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
        elif std == 0:
            layer.weight.zero_()
        else:
            layer.weight.normal_(0.0, std, generator=generator)
    return layer


def products(head: nn.Module) -> int:
    """Return the MACs of one product with each linear layer of ``head``."""
    return sum(layer.weight.numel() for layer in head.modules() if isinstance(layer, nn.Linear))


def positive(name: str, value: float) -> float:
    """``value`` as a float, or a sentence that the option ``name`` must be positive and finite."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive, not {value}.")
    return float(value)


#: what a router must not define any more → what to define instead
_RENAMED = {
    "fit_spread": "finish_training(self, curvature), which returns its log values by name",
    "trains_mean": "fits_variance_after",
    "follows_path": "keeps_last_weights",
}


def _check_method(name: str, cls: type[BayesianRouter]) -> None:
    for old, new in _RENAMED.items():
        if hasattr(cls, old):
            raise ValueError(f"Method {name!r} defines {old}, which is no longer read; define {new} instead.")


routers: Registry[BayesianRouter] = Registry(
    "method",
    "vmoer.routers",
    {method.name: method.path for method in METHODS},
    _check_method,
)
