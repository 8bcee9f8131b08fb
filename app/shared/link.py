"""The link of a page: reads and checks its query parameters, binds widgets to them, writes them back complete.

The URL is the only state. A widget's callback writes the URL; the next script run reads it. So the address bar always
holds what is shown, and the same link shows the same thing to anybody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import streamlit as st

from app.shared import states
from app.shared import url_state as urlstate
from app.shared.url_state import LinkError, Value

T = TypeVar("T", str, int, float)
_REMEMBERED = "vmoer.selection"
_CHANGED = "vmoer.changed"


def _query() -> dict[str, list[str]]:
    return {name: st.query_params.get_all(name) for name in st.query_params}


def go(name: str, value: Value) -> None:
    """Set one parameter of the current page's link; for callbacks, the rerun that follows shows it."""
    query = _query() | urlstate.render({name: value})
    st.query_params.from_dict(query)
    # What else the link holds may not exist for the new choice (another run has other layers): let it fall back.
    st.session_state[_CHANGED] = True


def changed() -> bool:
    """Whether :func:`go` was called since the page was last drawn as a whole."""
    return bool(st.session_state.get(_CHANGED, False))


class Link:
    """The checked state of one page. Pick every value first, ``commit``, then draw widgets."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.values: dict[str, Value | None] = {}
        try:
            self._given = urlstate.parse(_query())
        except LinkError as error:
            states.wrong_link(str(error), page=page)
        self._strict = bool(self._given) and not changed()
        if not self._given:
            # Reached by the menu: keep what the reader had chosen on the page before.
            self._given = dict(st.session_state.get(_REMEMBERED, {}))

    def given(self, name: str) -> Value | None:
        """What the link says of a parameter whose values this page can only check by asking for them."""
        return self._given.get(name)

    def pick(self, name: str, options: Sequence[T], default: T | None) -> T | None:
        """The link's value of ``name`` if it is one of ``options``, ``default`` if it has none; else the page ends."""
        try:
            value = urlstate.choose(name, self._given.get(name), options, default)
        except LinkError as error:
            if self._strict:
                states.wrong_link(str(error), page=self.page)
            value = default
        self.values[name] = value  # type: ignore[assignment]  # of the choices
        return value  # type: ignore[return-value]  # as above

    def pick_many(
        self, name: str, options: Sequence[str], default: Sequence[str], limit: int | None = None
    ) -> tuple[str, ...]:
        """Like :meth:`pick`, for a parameter that may hold several values."""
        given = self._given.get(name)
        try:
            values = urlstate.choose_many(name, given if isinstance(given, tuple) else None, options, default, limit)
        except LinkError as error:
            if self._strict:
                states.wrong_link(str(error), page=self.page)
            values = tuple(default)
        self.values[name] = values
        return values

    def text(self, name: str) -> str:
        """The picked text of ``name``; empty where there was none to pick."""
        return str(self.values[name] or "")

    def index(self, name: str) -> int | None:
        """The picked whole number of ``name``: a layer, an expert, a position."""
        value = self.values[name]
        return value if isinstance(value, int) else None

    def level(self, name: str) -> float:
        """The picked level of ``name``, such as a noise level; NaN where there was none to pick."""
        value = self.values[name]
        return float(value) if isinstance(value, (int, float)) else math.nan

    def commit(self) -> None:
        """Write the complete state into the address bar and remember it for the other pages."""
        query = urlstate.render(self.values)
        if _query() != query:
            st.query_params.from_dict(query)
        kept = {name: value for name, value in self.values.items() if value not in (None, ())}
        st.session_state[_REMEMBERED] = {**st.session_state.get(_REMEMBERED, {}), **kept}
        st.session_state.pop(_CHANGED, None)

    def _bind(self, name: str, value: Any) -> str:
        key = f"{self.page}:{name}"
        if st.session_state.get(key) != value:
            st.session_state[key] = value
        return key

    def select(
        self,
        name: str,
        label: str,
        options: Sequence[T],
        *,
        show: Callable[[Any], str] = str,
        kind: Literal["list", "buttons"] = "list",
        help: str | None = None,
    ) -> None:
        """A widget that chooses the parameter ``name``; its value was picked already."""
        key = self._bind(name, self.values[name])

        def changed() -> None:
            if st.session_state[key] is not None:
                go(name, st.session_state[key])

        if kind == "buttons":
            st.segmented_control(label, options, format_func=show, key=key, on_change=changed, help=help, required=True)
        else:
            st.selectbox(label, options, format_func=show, key=key, on_change=changed, help=help)

    def select_many(
        self,
        name: str,
        label: str,
        options: Sequence[str],
        *,
        show: Callable[[Any], str] = str,
        limit: int | None = None,
    ) -> None:
        """A widget that chooses the several values of ``name``; the last one cannot be taken away."""
        chosen = self.values[name]
        key = self._bind(name, list(chosen) if isinstance(chosen, tuple) else [])

        def changed() -> None:
            if st.session_state[key]:
                go(name, tuple(st.session_state[key]))

        st.multiselect(label, options, format_func=show, key=key, on_change=changed, max_selections=limit)


def click_layer(point: dict[str, Any]) -> None:
    """A click on a layer in any chart chooses it."""
    go("layer", int(point["layer"]))
