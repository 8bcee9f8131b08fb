"""Buttons to the previous and next value of a parameter, which the keyboard reaches too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import streamlit as st

from app.shared.link import go

T = TypeVar("T", str, int)
#: the keys of each parameter that pages step through; the help lists them
KEYS = {"example": ("Alt+Left", "Alt+Right"), "layer": ("Alt+Up", "Alt+Down")}


def stepper(name: str, options: Sequence[T], value: T, noun: str) -> None:
    """``‹`` and ``›`` through ``options`` and the place of ``value`` among them; to stand in a horizontal container."""
    place = list(options).index(value)
    steps = (("‹", max(place - 1, 0), f"Previous {noun}"), ("›", min(place + 1, len(options) - 1), f"Next {noun}"))
    for (sign, target, text), shortcut in zip(steps, KEYS[name], strict=True):
        st.button(
            f"{sign} {text}" if sign == "‹" else f"{text} {sign}",
            on_click=go,
            args=(name, options[target]),
            disabled=target == place,
            shortcut=shortcut,
            key=f"step.{name}.{sign}",
        )
    st.caption(f"{place + 1:,} of {len(options):,}", width="content")
