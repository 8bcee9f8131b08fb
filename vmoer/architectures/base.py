"""What a model family must say about its routers: where they are, how they select, how they weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vmoer.errors import UnsupportedModelError
from vmoer.registry import Registry


@dataclass(frozen=True)
class RouterSite:
    """One native router: ``layer`` is the absolute 0-based block index, ``path`` its module path in the model."""

    layer: int
    path: str
    router: nn.Module
    block: nn.Module
    n_experts: int
    top_k: int
    hidden_size: int


class Architecture(ABC):
    """One family. Stateless; instances are made per model by :func:`architecture_of`."""

    #: transformers class names served by this file
    classes: tuple[str, ...] = ()

    @abstractmethod
    def backbone(self, model: nn.Module) -> nn.Module:
        """The decoder stack that receives ``input_ids`` and ``attention_mask``."""

    @abstractmethod
    def decoder_layers(self, model: nn.Module) -> nn.ModuleList:
        """All decoder blocks, dense ones included, in order."""

    @abstractmethod
    def sites(self, model: nn.Module) -> list[RouterSite]:
        """Every router with its absolute layer, in order."""

    @abstractmethod
    def select(self, site: RouterSite, scores: Tensor) -> Tensor:
        """Indices ``[tokens, k]`` of the experts chosen by selection scores ``[tokens, experts]``."""

    @abstractmethod
    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        """Gate weights ``[tokens, k]`` (float32) of the chosen experts under logits ``[tokens, experts]``."""

    def unpack(self, output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """``(router_logits, gate_weight, expert_index)`` of the native router's output."""
        logits, weight, index = output
        return logits, weight, index

    def pack(self, logits: Tensor, weight: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """The native output tuple, in the family's own order."""
        return logits, weight, index

    @abstractmethod
    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        """Config of a random-weight ``class_name`` model that runs in milliseconds (unit tests only)."""


architectures: Registry[Architecture] = Registry(
    "model family",
    "vmoer.architectures",
    {
        "GraniteMoeForCausalLM": "vmoer.architectures.granite_moe:GraniteMoe",
        "GraniteMoeSharedForCausalLM": "vmoer.architectures.granite_moe:GraniteMoe",
    },
)


def unwrap(model: nn.Module) -> nn.Module:
    """The transformers model inside a peft wrapper, or the model itself."""
    base = getattr(model, "get_base_model", None)
    return base() if callable(base) else model


def architecture_of(model: nn.Module) -> Architecture:
    """The family of ``model``; a dense or unknown model is refused by name."""
    name = type(unwrap(model)).__name__
    known = architectures.names()
    if name not in known:
        raise UnsupportedModelError(
            f"{name} has no router this version can wrap: it is dense or of an unknown family. "
            f"Supported: {', '.join(known)}."
        )
    return architectures.get(name)()


def top_k_indices(scores: Tensor, k: int) -> Tensor:
    """The ``k`` largest entries of each row, as every native router here takes them."""
    return scores.topk(k, dim=-1).indices


def softmax_over_selected(logits: Tensor, index: Tensor) -> Tensor:
    """Softmax over the chosen experts' logits only (Granite, GPT-OSS)."""
    return torch.softmax(logits.gather(-1, index), dim=-1)
