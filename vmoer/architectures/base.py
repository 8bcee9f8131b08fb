"""What a model family must say about its routers: where they are, how they select, how they weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from vmoer.errors import UnsupportedModelError


@dataclass(frozen=True)
class RouterSite:
    """One native router: ``layer`` is the absolute 0-based block index, ``path`` its module path in the model."""

    layer: int
    path: str
    router: Any  # an nn.Module of the family's own class, whose attributes hold the settings of its rule
    block: nn.Module
    n_experts: int
    top_k: int
    hidden_size: int
    #: what the MoE block calls in the router's place: peft's LoRA on the router's weight, whose output is the router's
    wrapper: nn.Module | None = None

    @property
    def called(self) -> Any:
        """The module that the MoE block calls: the router, or the adapter around it."""
        return self.router if self.wrapper is None else self.wrapper


class Architecture(ABC):
    """One family. Stateless; instances are made per model by :func:`vmoer.architectures.architecture_of`.

    The defaults are those of a softmax router that returns ``(router_logits, gate_weight, expert_index)``; families
    whose scores are sigmoids start from :class:`vmoer.architectures.rules.SigmoidArchitecture`.
    """

    #: transformers class names served by this file
    classes: tuple[str, ...] = ()
    #: attribute of a decoder block that holds its MoE block ("": the decoder block itself), and of the MoE block that
    #: holds its router
    block_name: str = "mlp"
    router_name: str = "gate"
    #: attribute of the router that holds its matrix [experts, hidden]
    weight_name: str = "weight"
    #: attribute of the MoE block that is handed to the router beside the hidden states; empty where none is
    argument_name: str = ""
    #: the routing rule in words, for people
    rule: str = ""
    #: False where probabilities are one sigmoid per expert
    softmax: bool = True
    #: True where gate weights are no normalisation of the scores that select: both are recorded then
    separate_scores: bool = False
    #: False where the native model forgets its past when several tokens at once are fed against a cache
    continues_cache: bool = True
    #: False where the native model mixes sequences packed into a row, as layers of linear attention do
    packs: bool = True
    #: False where a decoder block hands the next one more than its hidden states: a pass cannot be entered midway
    divisible: bool = True
    #: why Bayesian routers are refused, one sentence; empty where they are supported
    bayesian_refusal: str = ""

    def backbone(self, model: nn.Module) -> nn.Module:
        """Return the module that receives ``input_ids`` and ``attention_mask``."""
        base = unwrap(model)
        inner = getattr(base, "model", None)
        return inner if isinstance(inner, nn.Module) else base  # a decoder without a head is its own

    def decoder(self, model: nn.Module) -> tuple[str, nn.Module]:
        """Return the stack of decoder blocks and its path: of a model that also sees images, its text part."""
        backbone = self.backbone(model)
        name = next(name for name, module in unwrap(model).named_modules() if module is backbone)
        text = getattr(backbone, "language_model", None)
        return (f"{name}.language_model", text) if isinstance(text, nn.Module) else (name, backbone)

    def decoder_layers(self, model: nn.Module) -> nn.ModuleList:
        """Return all decoder blocks, dense ones included, in order."""
        layers = self.decoder(model)[1].layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def sites(self, model: nn.Module) -> list[RouterSite]:
        """Return every router with its absolute layer, in order; dense blocks have none."""
        found = []
        stack = self.decoder(model)[0]
        for layer, block in enumerate(self.decoder_layers(model)):
            moe = getattr(block, self.block_name, None) if self.block_name else block
            called: Any = getattr(moe, self.router_name, None)
            if moe is None or called is None:
                continue
            router = inside_adapters(called)
            n_experts, top_k = self.sizes(router)
            if not isinstance(top_k, int) or not 1 <= top_k <= n_experts:
                raise UnsupportedModelError(
                    f"The configuration of this {type(unwrap(model)).__name__} gives each token {top_k!r} of its "
                    f"{n_experts} experts; it must be a whole number from 1 to {n_experts}."
                )
            names = (stack, "layers", str(layer), self.block_name, self.router_name)
            found.append(
                RouterSite(
                    layer=layer,
                    path=".".join(name for name in names if name),
                    router=router,
                    block=moe,
                    n_experts=n_experts,
                    top_k=top_k,
                    hidden_size=attrgetter(self.weight_name)(router).shape[1],
                    wrapper=called if called is not router else None,
                )
            )
        return found

    def sizes(self, router: Any) -> tuple[int, int]:
        """Return how many experts ``router`` chooses from, and how many it chooses."""
        return router.num_experts, router.top_k

    def ask(self, site: RouterSite, hidden: Tensor) -> tuple[Tensor, ...]:
        """Return what the native router makes of ``hidden [tokens, hidden]``; the hooks on it are left out."""
        more = (getattr(site.block, self.argument_name, None),) if self.argument_name else ()
        return tuple(site.called.forward(hidden, *more))

    def probabilities(self, logits: Tensor) -> Tensor:
        """What the router makes of its logits ``[…, experts]``; the in-router estimator averages these."""
        return torch.softmax(logits, dim=-1)

    def logits_of(self, probabilities: Tensor) -> Tensor:
        """Logits whose :meth:`probabilities` are the given ones."""
        return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()

    def log_distribution(self, logits: Tensor) -> Tensor:
        """Logarithm of the routing distribution over all experts (sums to 1), whose entropy is reported."""
        return torch.log_softmax(logits, dim=-1)

    def selection_scores(self, site: RouterSite, logits: Tensor) -> Tensor:
        """Scores ``[tokens, experts]`` whose order selects; −∞ where an expert cannot be chosen."""
        return logits

    @abstractmethod
    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        """Indices ``[tokens, k]`` of the experts chosen under logits ``[tokens, experts]``, in the native order."""

    @abstractmethod
    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        """Gate weights ``[tokens, k]`` of the chosen experts under logits ``[tokens, experts]``."""

    def read(self, site: RouterSite, hidden: Tensor, output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return what :meth:`unpack` does; for routers whose output alone does not tell their logits."""
        return self.unpack(site, output)

    def unpack(self, site: RouterSite, output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """``(router_logits, gate_weight, expert_index)`` of the native router's output."""
        logits, weight, index = output
        return logits, weight, index

    def pack(self, site: RouterSite, logits: Tensor, weight: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """The native output tuple, in the family's own order."""
        return logits, weight, index

    @abstractmethod
    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        """Config of a random-weight ``class_name`` model that runs in milliseconds (unit tests only)."""


def unwrap(model: nn.Module) -> nn.Module:
    """The transformers model inside a peft wrapper, or the model itself."""
    base = getattr(model, "get_base_model", None)
    return base() if callable(base) else model


def inside_adapters(module: nn.Module) -> nn.Module:
    """Return the module that peft's adapters are wrapped around, or ``module`` itself."""
    while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
        module = inner
    return module


def child(parent: nn.Module, name: str) -> nn.Module:
    """The submodule ``name`` of ``parent``."""
    module = getattr(parent, name)
    assert isinstance(module, nn.Module)
    return module


def tiny_values(**changes: Any) -> dict[str, Any]:
    """Configuration values that tiny models of most families share, with ``changes``."""
    return {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **changes,
    }
