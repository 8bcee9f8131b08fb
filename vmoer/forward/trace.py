"""``RoutingTrace``: every routing decision of real tokens as dense NumPy arrays, padding never included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class RoutingTrace:
    """N real tokens × M MoE layers, k experts each.

    Token arrays ``[N]``: ``example`` (number of the sequence over all recorded calls: a row, a sequence packed into
    one, or a text that ``generate()`` returned), ``position`` (from 0, padding not counted), ``token_id`` (−1 when the
    model was fed embeddings), ``decode`` (ran against a KV cache or, in ``generate()``, was generated). Decision arrays
    ``[N, M]`` or ``[N, M, k]``: ``expert_index`` by falling selection score, ``gate_weight`` as applied,
    ``selection_score`` (what ranked the chosen experts; ``None`` for families whose gates are a softmax of it),
    ``base_expert_index`` (the native router's choice for the same input), ``overlap`` (experts shared by both),
    ``top_k_margin`` (selection score of the last expert in minus the first out), ``routing_entropy`` (nats),
    ``logit_variance`` (trace of the posterior covariance), ``logit_variance_mc`` (the same from the samples) and
    ``temperature``; the last three hold NaN in layers or methods that have none.
    """

    layers: Array
    example: Array
    position: Array
    token_id: Array
    decode: Array
    expert_index: Array
    gate_weight: Array
    base_expert_index: Array
    overlap: Array
    top_k_margin: Array
    routing_entropy: Array
    logit_variance: Array
    logit_variance_mc: Array
    temperature: Array
    selection_score: Array | None = None

    def __len__(self) -> int:
        return len(self.example)

    @property
    def n_rows(self) -> int:
        """Token × layer decisions."""
        return self.overlap.size

    def take(self, tokens: Array) -> RoutingTrace:
        """The trace of a subset of tokens (boolean mask or indices ``[N]``)."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        taken: dict[str, Any] = {
            name: None if value is None else value[tokens] for name, value in columns.items() if name != "layers"
        }
        return RoutingTrace(layers=self.layers, **taken)

    def decisions(self) -> dict[str, Any]:
        """Flat columns, one row per token × layer, token-major; absent quantities are masked or ``None``."""
        tokens, layers = self.overlap.shape
        columns: dict[str, Any] = {
            "token": np.repeat(np.arange(tokens), layers),
            "layer": np.tile(self.layers.astype(np.uint16), tokens),
        }
        for name in ("expert_index", "gate_weight", "base_expert_index"):
            columns[name] = getattr(self, name).reshape(tokens * layers, -1)
        selection = self.selection_score
        columns["selection_score"] = None if selection is None else selection.reshape(tokens * layers, -1)
        for name in ("overlap", "top_k_margin", "routing_entropy"):
            columns[name] = getattr(self, name).reshape(-1)
        for name in ("logit_variance", "logit_variance_mc", "temperature"):
            columns[name] = np.ma.masked_invalid(getattr(self, name).reshape(-1))
        return columns

    def examples(self) -> Iterator[RoutingTrace]:
        """One trace per recorded row, in order."""
        for number in np.unique(self.example):
            yield self.take(self.example == number)
