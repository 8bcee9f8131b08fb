"""A prompt as tokens one can choose, by click or with the arrow keys; each is shaded by a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import streamlit as st

from app.figures.palette import MARK, NEUTRAL, WORSE

_CSS = f"""
.strip {{ line-height: 2.15; font-family: "Source Code Pro", monospace; font-size: 0.9rem;
  color: var(--st-text-color); outline: none; padding: 2px; border-radius: 6px; overflow-wrap: anywhere; }}
.strip:focus-visible {{ box-shadow: 0 0 0 2px var(--st-primary-color); }}
.strip span {{ padding: 0.2rem 0.12rem; border-radius: 0.25rem; white-space: pre-wrap; margin-right: 1px;
  display: inline-block; line-height: 1.4; cursor: pointer; min-width: 0.6em; text-align: center;
  background: color-mix(in srgb, {WORSE} calc(var(--w) * 1%), transparent); }}
.strip span:hover {{ outline: 1px solid {NEUTRAL}; }}
.strip span.made {{ border-bottom: 2px dotted {NEUTRAL}; }}
.strip span.on {{ outline: 2.5px solid {MARK}; }}
"""
# Tokens arrive as data and become text nodes: whatever they say is never markup.
_JS = """
export default function ({ parentElement, data, setTriggerValue }) {
  const strip = parentElement.querySelector(".strip");
  const pick = (place) => {
    if (place >= 0 && place < data.tokens.length && place !== data.picked) setTriggerValue("picked", place);
  };
  strip.replaceChildren(...data.tokens.map((token, place) => {
    const span = document.createElement("span");
    span.textContent = token.text;
    span.title = token.tip;
    span.id = "token-" + place;
    span.setAttribute("role", "option");
    span.setAttribute("aria-selected", String(place === data.picked));
    span.className = (token.made ? "made" : "") + (place === data.picked ? " on" : "");
    span.style.setProperty("--w", String(Math.round(70 * token.weight)));
    span.onclick = () => { pick(place); strip.focus(); };
    return span;
  }));
  strip.setAttribute("aria-label", data.label);
  strip.setAttribute("aria-activedescendant", "token-" + data.picked);
  strip.onkeydown = (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in moves) { event.preventDefault(); pick(data.picked + moves[event.key]); }
    if (event.key === "Home") { event.preventDefault(); pick(0); }
    if (event.key === "End") { event.preventDefault(); pick(data.tokens.length - 1); }
  };
}
"""
_strip = st.components.v2.component(
    "vmoer_tokens", html='<div class="strip" role="listbox" tabindex="0"></div>', css=_CSS, js=_JS
)


@dataclass(frozen=True)
class Token:
    """One token: its text, ``weight`` in [0, 1], tooltip, and whether the model made it."""

    text: str
    weight: float
    tip: str
    made: bool = False


def token_picker(tokens: Sequence[Token], picked: int, *, label: str, key: str, on_pick: Callable[[int], None]) -> None:
    """Draw the strip with the token at place ``picked`` marked; ``on_pick`` gets the place the reader chose."""

    def chosen() -> None:
        place = st.session_state[key].picked
        if isinstance(place, int) and 0 <= place < len(tokens):
            on_pick(place)

    data = {"tokens": [asdict(token) for token in tokens], "picked": picked, "label": label}
    _strip(data=data, key=key, on_picked_change=chosen)
