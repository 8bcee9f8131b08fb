"""What learns in a training stage: the heads of Bayesian routers, the correction of native routers, or an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vmoer.errors import VmoerError
from vmoer.forward.hooks import Tap
from vmoer.handle import Handle


@dataclass(frozen=True)
class Learner:
    """``parameters`` get gradients; ``tensors`` (which share their storage) are what a training state keeps, by name.

    ``handle`` is set for Bayesian routers: their passes sample, and their loss has a KL.
    """

    tap: Tap
    parameters: dict[str, nn.Parameter]
    tensors: dict[str, Tensor]
    handle: Handle | None = None

    @property
    def model(self) -> nn.Module:
        return self.tap.model

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of every tensor."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    def load(self, values: dict[str, Tensor]) -> None:
        """Put a snapshot back."""
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(values[name])

    def sampling(self, sample_ids: Tensor, stream: int) -> AbstractContextManager[None]:
        """Inside the block each row takes the routing draw that ``sample_ids [rows]`` numbers."""
        return nullcontext() if self.handle is None else self.handle.one_draw(sample_ids, stream=stream)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Inside the block these parameters require gradients and no other parameter of the model does."""
        mine = {id(parameter) for parameter in self.parameters.values()}
        everything = [*self.model.parameters(), *self.parameters.values()]
        flags = [(parameter, parameter.requires_grad) for parameter in everything]
        for parameter in everything:
            parameter.requires_grad_(id(parameter) in mine)
        try:
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


def learner_of(handle: Handle) -> Learner:
    """The Bayesian routers of a handle; a method without parameters is refused."""
    parameters = dict(handle.routers.named_parameters())
    if not parameters:
        raise VmoerError(f"Method {handle.method!r} has nothing to train.")
    return Learner(handle.tap, parameters, handle.routers.state_dict(), handle)
