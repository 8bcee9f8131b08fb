"""One finished inspection: token strip, heatmap, the experts of one token over the samples, the next token, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from app.figures.token_heatmap import token_heatmap
from app.shared import runs as run_names
from app.shared import states
from app.shared.choice_row import choice_row
from app.shared.figure import figure
from app.shared.format import number
from app.shared.link import Link, go
from app.shared.text import counted, plain
from app.shared.token_strip import visible
from app.views.inspect import charts
from app.views.inspect import frames as inspected
from app.views.inspect.token_picker import Token, token_picker

NATIVE = "deterministic"
_HEADS = {
    "native": "the model's own routers",
    "shipped": "trained routers that come with VMoER",
    "untrained": "untrained heads, as initialised",
    "without parameters": "a method without parameters",
}


class Inspected:
    """A result and what of it is chosen: prompt, method, quantity, token, layer."""

    def __init__(self, inspection_id: str, summary: Mapping[str, Any], table: pd.DataFrame, link: Link) -> None:
        self.id = inspection_id
        self.summary = summary
        self.link = link
        prompts = list(range(len(summary["prompts"])))
        self.prompt = int(link.pick("prompt", prompts, 0) or 0)
        methods = list(summary["methods"])
        self.method = str(link.pick("method", methods, methods[-1]))
        self.rows = inspected.token_rows(table, self.prompt, self.method)
        names = inspected.quantities(self.rows, self.method == NATIVE)
        self.quantity = str(link.pick("quantity", names, names[0]))
        self.quantities = names
        self.tokens = inspected.per_token(self.rows, self.quantity)
        positions = [int(position) for position in self.tokens["position"]]
        asked = self.found["next"][0]["position"]
        self.position = int(link.pick("token", positions, asked) or 0)
        self.layers = [int(layer) for layer in summary["moe_layers"]]
        carried = summary["methods"][self.method]["layers"] or self.layers
        self.layer = int(link.pick("layer", self.layers, carried[-1]) or 0)

    @property
    def found(self) -> Mapping[str, Any]:
        """What the summary says of the chosen prompt under the chosen method."""
        return self.summary["prompts"][self.prompt]["methods"][self.method]

    @property
    def samples(self) -> int:
        """Routing samples behind the counts."""
        return 1 if self.method == NATIVE else int(self.summary["samples"])

    def card(self, name: str) -> dict[str, Any]:
        """The reproducibility card of a figure of this inspection."""
        heads = self.summary["methods"][self.method]
        run = {
            "run_id": self.id,
            "model": self.summary["model"],
            "method": self.method,
            "estimator": "predictive" if name != "routing" else "in-router",
            "control": "untrained" if heads["heads"] == "untrained" else "none",
            "layers": heads["layers"],
            "samples": self.samples,
            "seed": self.summary["seed"],
            "dtype": self.summary["dtype"],
            "device": self.summary["device"],
            "routers": heads["heads"],
            "weights_sha256": self.summary["weights_sha256"],
            "version": self.summary["version"],
        }
        return {"figure": name, "query": "inspection", "generation": "live", "runs": [run]}


def draw(shown: Inspected) -> None:
    """Draw everything about the chosen prompt and method; the link is committed already."""
    _choices(shown)
    _labels(shown)
    _strip(shown)
    _heatmap(shown)
    left, right = st.columns(2, gap="large")
    with left:
        _fan(shown)
    with right:
        _next(shown)
    if len(shown.found["next"]) > 1:
        _generated(shown)


def _choices(shown: Inspected) -> None:
    link = shown.link
    with choice_row():
        if len(shown.summary["prompts"]) > 1:
            texts = [prompt["text"] for prompt in shown.summary["prompts"]]
            with st.container(width=420):
                link.select(
                    "prompt",
                    "Prompt",
                    list(range(len(texts))),
                    show=lambda n: f"{n + 1}: {' '.join(texts[n].split())[:60]}",
                )
        with st.container(width=190):
            link.select("method", "Method", list(shown.summary["methods"]))
        with st.container(width=330):
            link.select("quantity", "Colour by", shown.quantities, show=lambda name: inspected.QUANTITIES[name].title)
        with st.container(width=110):
            link.select("layer", "Layer", shown.layers)


def _labels(shown: Inspected) -> None:
    heads = shown.summary["methods"][shown.method]
    if heads["heads"] == "untrained":
        st.warning(
            f"The {plain(shown.method)} heads are untrained: their variance is the one they were initialised with. "
            "It shows how things work and says nothing about what the model knows.",
            title="Untrained heads",
        )
    states.synthetic_banner([shown.summary["model"]] if shown.summary["synthetic"] else [])
    layers = heads["layers"]
    carried = f" in {len(layers)} of {len(shown.layers)} MoE layers" if layers else ""
    st.caption(
        plain(
            f"{shown.summary['model']} · {shown.method}: {_HEADS.get(heads['heads'], heads['heads'])}{carried} · "
            f"{shown.samples} sample{'s' if shown.samples > 1 else ''} · seed {shown.summary['seed']} · "
            f"{shown.summary['dtype']} on {shown.summary['device']} · computed in {shown.summary['seconds']:.1f} s"
        )
    )


def _strip(shown: Inspected) -> None:
    one = inspected.QUANTITIES[shown.quantity]
    tokens = shown.tokens
    low, high = tokens["value"].min(), tokens["value"].max()
    made = int(tokens["made"].sum())
    st.markdown(f"#### {plain(one.title[:1].upper() + one.title[1:])}, token by token", anchors=False)
    st.caption(
        plain(
            f"Mean over layers, {low:.3g} to {high:.3g} {one.unit}; stronger colour = "
            f"{'smaller' if one.small else 'larger'}. {counted(len(tokens) - made, 'prompt token')}"
            + (f", {made} generated (dotted)" if made else "")
            + ". Click a token, or use the arrow keys."
        )
    )
    items = [
        Token(
            str(row["token"]),
            float(row["weight"]),
            f"position {row['position']}: {one.title} {row['value']:.4g} {one.unit}".strip(),
            bool(row["made"]),
        )
        for row in run_names.records(tokens)
    ]
    positions = [int(position) for position in tokens["position"]]
    token_picker(
        items,
        positions.index(shown.position),
        label="Prompt, token by token; arrow keys choose a token",
        key="inspect.strip",
        on_pick=lambda place: go("token", positions[place]),
    )


def _heatmap(shown: Inspected) -> None:
    one = inspected.QUANTITIES[shown.quantity]

    def cell(point: dict[str, Any]) -> None:
        go("token", int(point["position"]))
        go("layer", int(point["layer"]))

    columns = [
        "position",
        "token",
        "phase",
        "layer",
        "expert_index",
        "gate_weight",
        "base_expert_index",
        *shown.quantities,
    ]
    drawn = shown.rows[shown.rows[shown.quantity].notna()]
    figure(
        f"{one.title[:1].upper() + one.title[1:]} per token and layer",
        token_heatmap(
            drawn,
            shown.layers,
            value=shown.quantity,
            title=f"{one.title}{f', {one.unit}' if one.unit else ''}",
            token=shown.position,
        ),
        shown.rows[columns],
        key="inspect.heatmap",
        note=f"{counted(len(shown.tokens), 'token')} × {drawn['layer'].nunique()} layers with a value. "
        "Click a cell to choose its token and layer.",
        alt_text=f"Heatmap of {one.title} per token and layer",
        card=shown.card("routing"),
        explains=(one.definition,) if one.definition else (),
        selection="cell",
        on_select=cell,
    )


def _chosen_token(shown: Inspected) -> str:
    return str(shown.tokens.loc[shown.tokens["position"] == shown.position, "token"].iloc[0]).strip()


def _fan(shown: Inspected) -> None:
    here = (shown.rows["position"] == shown.position) & (shown.rows["layer"] == shown.layer)
    row = run_names.records(shown.rows[here])[0]
    frame = inspected.fan(row, shown.samples)
    top_k = len(row["expert_index"])
    used = int((frame["count"] > 0).sum())
    figure(
        f"Experts of “{_chosen_token(shown)}” at layer {shown.layer}",
        charts.expert_fan(frame),
        frame,
        key="inspect.fan",
        note=f"How often each expert was among the {top_k} chosen, over {shown.samples} routing samples carried "
        f"through the whole model; {used} of {len(frame)} experts were used. Bars add up to {top_k}.",
        alt_text=f"{used} of {len(frame)} experts were chosen for token {shown.position} at layer {shown.layer}",
        card=shown.card("experts over samples"),
        explains=("choice_spread",),
    )


def _next(shown: Inspected) -> None:
    entries = {int(entry["position"]): entry for entry in shown.found["next"]}
    first = min(entries)
    entry = entries.get(shown.position, entries[first])
    frame = inspected.candidates(entry)
    after = str(shown.tokens.loc[shown.tokens["position"] == entry["position"], "token"].iloc[0]).strip()
    spread = " Grey: middle 80 % of the samples." if entry["position"] == first and shown.samples > 1 else ""
    same = "" if entry["position"] == shown.position else " The chosen token lies inside the prompt; this is its end."
    figure(
        f"Next token after “{after}” (position {entry['position']})",
        charts.next_token(frame),
        frame,
        key="inspect.next",
        note=f"Entropy {entry['native_entropy']:.3f} nats deterministic, {entry['predictive_entropy']:.3f} averaged "
        f"over {shown.samples} samples, of which {entry['mutual_information']:.4f} is mutual information "
        f"(what the routing sample decides).{spread}{same}",
        alt_text="Probabilities of the likeliest next tokens, deterministic and averaged over routing samples",
        card=shown.card("next token"),
        explains=("next_token_entropy",),
    )


def _generated(shown: Inspected) -> None:
    frame = inspected.steps(shown.found["next"])
    taken = shown.found["next"][:-1]
    figure(
        f"Generated: “{' '.join(shown.found['generated'].split())[:80]}”",
        charts.entropies(frame),
        frame,
        key="inspect.generated",
        note=f"{counted(len(taken), 'new token')}, each the likeliest one under {shown.method}; entropy of each step's "
        "distribution over the next token, in nats; the last point is what would follow.",
        alt_text="Entropy of the next-token distribution at every generated token",
        card=shown.card("generated tokens"),
        explains=("next_token_entropy",),
    )
    means = shown.rows.groupby("position")[shown.quantities].mean()
    lines = [
        {
            "position": entry["position"] + 1,
            "token": visible(entry["taken"]),
            "entropy": number(entry["native_entropy"]),
            "averaged": number(entry["predictive_entropy"]),
            "mutual information": number(entry["mutual_information"]),
            **{
                inspected.QUANTITIES[name].title: number(means.loc[entry["position"] + 1, name])
                for name in shown.quantities
            },
        }
        for entry in taken
    ]
    st.dataframe(pd.DataFrame(lines), hide_index=True, key="inspect.steps", alt="Generated tokens with their routing")
