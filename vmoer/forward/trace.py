"""``RoutingTrace``: every routing decision of real tokens as dense NumPy arrays, padding never included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vmoer.forward import tables
from vmoer.forward.html import facts_html, rows_html

if TYPE_CHECKING:
    import pandas as pd

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

    def to_frame(self, tokenizer: Any = None) -> pd.DataFrame:
        """Return a pandas DataFrame with a row per token and layer; with a tokenizer it has the tokens' texts.

        Columns: ``example``, ``position``, ``token_id``, ``token`` (only with a tokenizer), ``phase``, ``layer``,
        ``experts`` and ``gates`` (arrays, by falling selection score), ``native_experts``, ``overlap``, ``entropy``
        (nats), ``margin``, ``variance`` (NaN where nothing is Bayesian).
        """
        return tables.to_frame(self._columns(tokenizer))

    def to_arrow(self, tokenizer: Any = None) -> Any:
        """Return the columns of :meth:`to_frame` as a ``pyarrow.Table``; experts and gates are lists of length k."""
        return tables.to_arrow(self._columns(tokenizer))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: how much was recorded, and the first decisions."""
        tokens, layers = self.overlap.shape
        facts = {
            "texts": len(np.unique(self.example)),
            "tokens": tokens,
            "MoE layers": layers,
            "experts per token": self.expert_index.shape[-1],
            "mean routing entropy (nats)": f"{self.routing_entropy.mean():.4g}",
            "routed unlike the native router": f"{(self.overlap < self.expert_index.shape[-1]).mean():.1%}",
        }
        first = self.take(np.arange(min(tokens, 3)))._columns(None)
        return facts_html("Routing trace", facts) + rows_html(first, 6)

    def _columns(self, tokenizer: Any) -> dict[str, Array]:
        """Columns for other programs, a row per token and layer, token-major."""
        decisions = self.decisions()
        owner = decisions["token"]
        columns = {name: getattr(self, name)[owner] for name in ("example", "position", "token_id")}
        if tokenizer is not None:
            texts = {int(token): tokenizer.decode([int(token)]) for token in np.unique(self.token_id) if token >= 0}
            columns["token"] = np.array([texts.get(int(token), "") for token in columns["token_id"]], dtype=object)
        columns["phase"] = np.where(self.decode, "decode", "prefill").astype(object)[owner]
        columns["layer"] = decisions["layer"].astype(np.int64)
        names = {
            "experts": "expert_index",
            "gates": "gate_weight",
            "native_experts": "base_expert_index",
            "overlap": "overlap",
            "entropy": "routing_entropy",
            "margin": "top_k_margin",
        }
        columns |= {shown: decisions[name] for shown, name in names.items()}
        return {**columns, "variance": self.logit_variance.reshape(-1)}

    def examples(self) -> Iterator[RoutingTrace]:
        """Yield one trace per recorded text, in order."""
        for number in np.unique(self.example):
            yield self.take(self.example == number)
