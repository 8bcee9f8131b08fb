"""Draw the rest of a page once its first chart is on the screen.

Mounted together, the charts of a page wait for each other, so the first came as late as the last. The rest is asked for
by the browser as soon as the first is drawn, without scrolling: searching in the page and reading aloud find all of it.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from app.shared import states
from app.shared.fragment import draw_fragment
from app.shared.link import changed
from store.errors import StoreError

_DRAWN = "vmoer.drawn"
# Looks again and again, as a page in the background has no frames to wait for; a chart that fails holds nothing back.
# Asked before the page's own run has ended, Streamlit cuts that short, and the browser knows no place for what comes.
_WATCH = """
export default function ({ setTriggerValue }) {
  const end = Date.now() + 5000;
  let timer;
  const look = () => {
    const drawn = document.querySelector('[data-testid="stVegaLiteChart"] .marks');
    const ended = document.querySelector('[data-test-script-state="notRunning"]');
    if (ended && (drawn || Date.now() > end)) setTriggerValue("due", true);
    else timer = setTimeout(look, 40);
  };
  timer = setTimeout(look, 40);
  return () => clearTimeout(timer);
}
"""
_watcher = st.components.v2.component("vmoer_later", js=_WATCH)


def after_first_chart(page: str, content: Callable[[], None]) -> None:
    """Draw ``content`` after the first chart of ``page`` when it is opened, at once whenever it is drawn again.

    To be called once on a page, after something with a chart. Asked for late, it is a part that runs alone, where a
    choice costs a run of the part before that of the page; drawn with its page it is none, so a choice is one run.
    """

    def due() -> None:
        st.session_state[_DRAWN] = page

    def drawn() -> None:
        try:
            content()
        except StoreError as error:
            states.broken(str(error))

    def part() -> None:
        if changed():
            st.rerun()
        if st.session_state.get(_DRAWN) == page:
            drawn()
            return
        with st.container(key="later"):
            _watcher(key="later.watch", on_due_change=due)

    if st.session_state.get(_DRAWN) == page:
        with st.container():  # as a part that runs alone has one: each element keeps its place in the page
            drawn()
    else:
        draw_fragment(part)
