"""Which MoE layers carry a Bayesian router: parsing and checking of layer selections."""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from vmoer.errors import LayerSelectionError

#: selections that need a measurement on text before they mean layers
MEASURED = ("susceptible", "leverage", "auto")

LayerSelection = str | Sequence[int]


def parse(selection: LayerSelection) -> tuple[str, int | None, list[int]]:
    """``(rule, count, explicit layers)``; raises :class:`LayerSelectionError` for anything else.

    Rules: ``all``, ``list`` (explicit), ``last:n``, ``susceptible:n``, ``leverage:n``, ``auto`` or ``auto:n``, and
    ``random:n:draw``, n layers by chance, whose explicit list is the number of the draw.
    """
    if isinstance(selection, str):
        chance = re.fullmatch(r"random:(\d{1,4}):(\d{1,3})", selection.strip())
        if chance and int(chance[1]) > 0:
            return "random", int(chance[1]), [int(chance[2])]
        match = re.fullmatch(r"(all|auto|(last|susceptible|leverage|auto):(\d{1,4}))", selection.strip())
        if not match:
            raise LayerSelectionError(
                f"Layer selection {selection!r} is not understood; use 'all', a list such as [3, 4], 'last:5', "
                f"'susceptible:10', 'leverage:8', 'random:5:0' or 'auto'."
            )
        if match[3] is None:
            return match[1], None, []
        count = int(match[3])
        if count < 1:
            raise LayerSelectionError(f"Layer selection {selection!r} chooses no layer; the count must be 1 or more.")
        return match[2], count, []
    if not isinstance(selection, Iterable):
        raise LayerSelectionError(f"Layers must be given as text or as a list such as [3, 4], not {selection!r}.")
    layers = []
    for layer in selection:
        if isinstance(layer, bool) or not isinstance(layer, SupportsIndex):
            raise LayerSelectionError(f"Layers must be whole numbers, not {layer!r}.")
        layers.append(operator.index(layer))  # NumPy integers too
    if not layers:
        raise LayerSelectionError("The layer list is empty; name at least one MoE layer or use 'all'.")
    repeated = sorted({layer for layer in layers if layers.count(layer) > 1})
    if repeated:
        raise LayerSelectionError(f"Layer {repeated[0]} is listed twice.")
    return "list", None, layers


def resolve(selection: LayerSelection, moe_layers: Sequence[int]) -> list[int]:
    """Sorted absolute layers for selections that need no measurement."""
    rule, count, explicit = parse(selection)
    if rule in MEASURED:
        raise LayerSelectionError(
            f"layers={selection!r} is chosen by measurement: pass calibration batches "
            f"(tokenised text) to bayesianize, or give the layers as a list."
        )
    if rule == "all":
        return list(moe_layers)
    if rule == "last":
        return list(moe_layers[-_at_most(count, moe_layers, selection) :])
    if rule == "random":
        chosen = random.Random(explicit[0]).sample(list(moe_layers), _at_most(count, moe_layers, selection))
        return sorted(chosen)
    unknown = [layer for layer in explicit if layer not in moe_layers]
    if unknown:
        raise LayerSelectionError(
            f"Layer {unknown[0]} is not an MoE layer of this model; its MoE layers are {describe(moe_layers)}."
        )
    return sorted(explicit)


def choose(
    selection: LayerSelection,
    moe_layers: Sequence[int],
    *,
    jaccard: Sequence[float] | None = None,
    nll_rise: Sequence[float] | None = None,
) -> list[int]:
    """Sorted layers for a measured selection, given the measurement per MoE layer.

    ``susceptible:n`` takes the n least stable layers, ``leverage:n`` the n where random routing costs most NLL,
    ``auto`` the layers with both rank in the upper half (or the n with the best sum of ranks).
    """
    rule, count, _ = parse(selection)
    if rule == "susceptible":
        order = _ranked(_needed(jaccard, selection), descending=False)
    elif rule == "leverage":
        order = _ranked(_needed(nll_rise, selection), descending=True)
    elif rule == "auto":
        unstable = _ranked(_needed(jaccard, selection), descending=False)
        matters = _ranked(_needed(nll_rise, selection), descending=True)
        rank = {i: unstable.index(i) + matters.index(i) for i in range(len(moe_layers))}
        order = sorted(rank, key=lambda i: (rank[i], i))
        if count is None:
            count = max(len(moe_layers) // 3, 1)
    else:
        return resolve(selection, moe_layers)
    return sorted(moe_layers[i] for i in order[: _at_most(count, moe_layers, selection)])


def describe(layers: Sequence[int]) -> str:
    """``0–29`` for a run of layers, a comma list otherwise."""
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}–{layers[-1]}"
    return ", ".join(map(str, layers))


def _needed(values: Sequence[float] | None, selection: LayerSelection) -> Sequence[float]:
    if values is None:
        raise LayerSelectionError(f"layers={selection!r} needs a measurement that was not made.")
    return values


def _ranked(values: Sequence[float], *, descending: bool) -> list[int]:
    sign = -1.0 if descending else 1.0
    return sorted(range(len(values)), key=lambda i: (sign * values[i], i))


def _at_most(count: int | None, layers: Sequence[int], selection: LayerSelection) -> int:
    assert count is not None
    if count > len(layers):
        raise LayerSelectionError(f"layers={selection!r} asks for {count} layers; the model has {len(layers)}.")
    return count
