"""What an inspection's result says, as frames for charts; no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from app.shared.format import number
from app.shared.token_strip import visible
from app.views.inspect.charts import CHOICES, MODELS, SIGNS


@dataclass(frozen=True)
class Quantity:
    """A number per token and layer: how it is called, its unit, its definition, and whether small is uncertain."""

    title: str
    unit: str
    definition: str
    small: bool = False


QUANTITIES: dict[str, Quantity] = {
    "logit_variance": Quantity("logit variance", "logits²", "logit_variance"),
    "unsettled": Quantity("spread of the choice over samples", "share", "choice_spread"),
    "routing_entropy": Quantity("routing entropy", "nats", "routing_entropy"),
    "changed": Quantity("experts changed against the deterministic router", "experts", "overlap"),
    "top_k_margin": Quantity("margin of the last expert in", "score", "top_k_margin", small=True),
    "temperature": Quantity("temperature of the selection", "", ""),
}


def token_rows(table: pd.DataFrame, prompt: int, method: str) -> pd.DataFrame:
    """The decisions on one prompt under one method, with the derived quantities ``changed`` and ``unsettled``.

    ``unsettled`` is the share of the samples' choices that fell outside the k experts chosen most often: 0 when every
    sample chose the same k.
    """
    rows = table[(table["prompt"] == prompt) & (table["method"] == method)].copy()
    rows["token"] = [visible(token, int(number)) for token, number in zip(rows["token"], rows["token_id"], strict=True)]
    top_k = rows["expert_index"].map(len)
    rows["changed"] = top_k - rows["overlap"]
    counts = [np.sort(np.asarray(row))[::-1] for row in rows["chosen"]]
    rows["unsettled"] = [1.0 - row[:k].sum() / row.sum() for row, k in zip(counts, top_k, strict=True)]
    for name in QUANTITIES:
        rows[name] = rows[name].astype(float)
    return rows.reset_index(drop=True)


def quantities(rows: pd.DataFrame, deterministic: bool) -> list[str]:
    """What can be shown of these rows; a deterministic model neither changes experts nor spreads its choice."""
    idle = ("changed", "unsettled") if deterministic else ()
    return [name for name in QUANTITIES if name not in idle and rows[name].notna().any()]


def per_token(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """One row per token: ``position``, ``token``, ``made``, mean ``value`` over its layers, ``weight`` in [0, 1].

    The weight is 1 at the most uncertain token of the prompt and 0 at the least.
    """
    found = (
        rows.groupby("position", sort=True)
        .agg(token=("token", "first"), phase=("phase", "first"), value=(quantity, "mean"))
        .reset_index()
    )
    low, high = found["value"].min(), found["value"].max()
    span = high - low if high > low else np.inf
    found["weight"] = ((found["value"] - low) / span).fillna(0.0)
    if QUANTITIES[quantity].small:
        found["weight"] = (1.0 - found["weight"]) if np.isfinite(span) else 0.0
    found["made"] = found["phase"] == "decode"
    return found.drop(columns="phase")


def fan(row: Mapping[str, Any], samples: int) -> pd.DataFrame:
    """One row per expert of a layer: how many samples chose it for a token, and what was chosen without sampling."""
    chosen = np.asarray(row["chosen"], dtype=int)
    base = {int(expert) for expert in row["base_expert_index"]}
    gates = dict(zip((int(e) for e in row["expert_index"]), (float(g) for g in row["gate_weight"]), strict=True))
    return pd.DataFrame(
        {
            "expert": range(len(chosen)),
            "count": chosen,
            "samples": samples,
            "share": chosen / samples,
            "choice": [CHOICES[0] if expert in base else CHOICES[1] for expert in range(len(chosen))],
            "gate": [gates.get(expert) for expert in range(len(chosen))],
        }
    ).astype({"gate": float})


def candidates(entry: Mapping[str, Any]) -> pd.DataFrame:
    """The likeliest next tokens in long form, one row per token and model; labels are unique."""
    names = [visible(one["token"], one["token_id"]) for one in entry["candidates"]]
    names = [name if name.strip() else "␣" * len(name) for name in names]
    rows = []
    for one, name in zip(entry["candidates"], names, strict=True):
        label = f"{name} #{one['token_id']}" if names.count(name) > 1 else name
        for model, field in zip(MODELS, ("native", "mean"), strict=True):
            sampled = field == "mean"
            rows.append(
                {
                    "label": label,
                    "token_id": one["token_id"],
                    "model": model,
                    "probability": one[field],
                    "low": one["low"] if sampled else None,
                    "high": one["high"] if sampled else None,
                }
            )
    return pd.DataFrame(rows).astype({"low": float, "high": float})


def steps(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Entropies of the next-token distribution per new token, in long form."""
    kinds = {
        "native_entropy": "entropy, deterministic",
        "predictive_entropy": "entropy, average over samples",
        "mutual_information": "mutual information",
    }
    rows = [
        {
            "step": number + 1,
            "position": entry["position"] + 1,
            "token": "–" if entry["taken"] is None else visible(entry["taken"]),
            "kind": kind,
            "nats": entry[field],
        }
        for number, entry in enumerate(entries)
        for field, kind in kinds.items()
    ]
    return pd.DataFrame(rows)


def parts(why: Mapping[str, Any]) -> pd.DataFrame:
    """One row per token of an explanation: its value, one standard error around it where there is one."""
    spread = why["spread"] or [None] * len(why["values"])
    rows = [
        {
            "place": place,
            "token": visible(token),
            "label": f"{place} {visible(token)}",
            "value": value,
            "low": None if error is None else value - error,
            "high": None if error is None else value + error,
            "sign": SIGNS[0] if value >= 0 else SIGNS[1],
        }
        for place, (token, value, error) in enumerate(zip(why["tokens"], why["values"], spread, strict=True))
    ]
    return pd.DataFrame(rows).astype({"low": float, "high": float})


def verdict(why: Mapping[str, Any]) -> str:
    """Whether the values may be read as parts of a whole, in one sentence with the numbers."""
    change = why["value"] - why["baseline_value"]
    asked = (
        f"f(prompt) = {why['value']:.4g}, f(every token replaced by {why['baseline_token']}) = "
        f"{why['baseline_value']:.4g}"
    )
    if why["complete"]:
        rest = f"{abs(why['delta']):.2g}"
        return f"Complete: the values add up to the difference {_signed(change)} within {rest}. {asked}."
    share = "" if why["incomplete"] is None else f" ({number(why['incomplete'], percent=True)} of it)"
    return (
        f"NOT COMPLETE: the values leave {_signed(-why['delta'])} of the difference {_signed(change)} unexplained"
        f"{share}, because tokens act together. Each bar alone is exact for what it says, the effect of replacing that "
        f"one token. {asked}."
    )


def _signed(value: float) -> str:
    return f"{value:+.4g}".replace("-", "−")
