"""The reproducibility card: what one needs to make a number again, shown at each chart and put into each export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app.shared.fragment import popover
from app.shared.text import plain

_FIELDS = (
    "run_id", "experiment", "name", "model", "method", "estimator", "control", "layers", "samples", "seed", "dtype",
    "device", "scoring", "routers", "status", "datasets", "n_tokens", "started_at", "ended_at", "synthetic",
)  # fmt: skip


def run_card(run: Mapping[str, Any]) -> dict[str, Any]:
    """The card of one run: its catalog row, and what its manifest says of spec, versions, commit and hashes."""
    card: dict[str, Any] = {}
    for name in _FIELDS:
        value = run.get(name)
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        if isinstance(value, pd.Timestamp):
            value = None if pd.isna(value) else f"{value.isoformat()}Z"
        if not isinstance(value, list) and (value is None or pd.isna(value)):
            continue
        card[name] = value
    manifest = run.get("manifest")
    if isinstance(manifest, str) and manifest:
        card["manifest"] = json.loads(manifest)
    return card


def cards(runs: Sequence[Mapping[str, Any]], *, figure: str, query: str, generation: str) -> dict[str, Any]:
    """The card of a figure: which query of which generation it shows, and the card of each of its runs."""
    return {"figure": figure, "query": query, "generation": generation, "runs": [run_card(run) for run in runs]}


def card_popover(card: Mapping[str, Any], *, key: str) -> None:
    """A popover with the card: the essentials as text, all of it as JSON to copy."""

    def content() -> None:
        st.markdown(f"**Reproducibility card**: {card['figure']}")
        for run in card["runs"]:
            layers = run.get("layers") or []
            carried = f"layers {', '.join(map(str, layers))} · " if layers else ""
            about = (
                f"{run.get('model')} · {run.get('method')} · {run.get('estimator')} · control {run.get('control')} · "
                f"{carried}{run.get('samples')} samples · seed {run.get('seed')} · {run.get('dtype')} on "
                f"{run.get('device')}"
            )
            st.markdown(f"`{run['run_id']}`  \n{plain(about)}")
        st.markdown(f"Query `{card['query']}` on generation `{card['generation']}`")
        st.json(dict(card), expanded=1)

    popover("Card", content, key=f"{key}.card", help="How to make this figure again")
