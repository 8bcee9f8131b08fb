"""Run a decoder stack in two parts: below a layer once, from that layer up as often as there are routing samples.

The layers below the first Bayesian router answer the same for every sample; only what lies above is re-run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vmoer.forward.hooks import tap_of


class _Reached(Exception):
    """Ends a forward pass at the input of a layer."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def hidden_before(model: nn.Module, layer: int, **inputs: Any) -> Tensor:
    """Hidden states ``[batch, length, hidden]`` at the input of ``layer``; the KV cache is filled below it."""
    target = tap_of(model).architecture.decoder_layers(model)[layer]

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args[0] if args else kwargs["hidden_states"])

    hook = target.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(**inputs)
    except _Reached as reached:
        return reached.hidden
    finally:
        hook.remove()
    raise RuntimeError(f"The forward pass never reached layer {layer}.")


@contextmanager
def entering_at(model: nn.Module, layer: int, hidden: Tensor) -> Iterator[None]:
    """Inside the block a forward pass skips all layers below ``layer`` and enters it with ``hidden``."""
    layers = tap_of(model).architecture.decoder_layers(model)

    def skip(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden_states

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    hook = layers[layer].register_forward_pre_hook(enter, with_kwargs=True)
    own = [below.__dict__.get("forward") for below in layers[:layer]]  # accelerate's, where weights are offloaded
    try:
        for below in layers[:layer]:
            below.__dict__["forward"] = skip
        with tap_of(model).leaving_out(set(range(layer))):
            yield
    finally:
        for below, forward in zip(layers[:layer], own, strict=True):
            below.__dict__.pop("forward", None)
            if forward is not None:
                below.__dict__["forward"] = forward
        hook.remove()


def fork_cache(model: nn.Module, cache: Any) -> Any:
    """A cache that continues from ``cache`` without changing it (some layers write into their tensors)."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(entry) for entry in cache.layers]
    for entry in fork.layers:
        for name, value in vars(entry).items():
            if isinstance(value, Tensor):
                setattr(entry, name, value.clone())
            elif isinstance(value, dict):  # states of linear attention, by number
                setattr(entry, name, {key: _cloned(state) for key, state in value.items()})
    tap_of(model).copy_running(cache, fork)
    return fork


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def borrow_lower_layers(cache: Any, lower: Any, layer: int) -> None:
    """Give ``cache`` the layers of ``lower`` below ``layer``: skipped layers still tell how long the past is."""
    cache.layers[:layer] = [copy.copy(entry) for entry in lower.layers[:layer]]
