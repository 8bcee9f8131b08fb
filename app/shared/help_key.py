"""Help by keyboard: ``?`` opens what the keys do and how pages are read, ``/`` goes to the first choice of the page."""

from __future__ import annotations

import streamlit as st

from app.shared.stepper import KEYS

_LISTEN = """
export default function ({ setTriggerValue }) {
  const typing = (element) =>
    element && (["INPUT", "TEXTAREA", "SELECT"].includes(element.tagName) || element.isContentEditable);
  const pressed = (event) => {
    if (typing(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "?") setTriggerValue("asked", Date.now());
    if (event.key === "/") {
      const first = document.querySelector('[data-testid="stMain"] [data-testid="stSelectbox"] input');
      if (first) { event.preventDefault(); first.focus(); first.scrollIntoView({ block: "center" }); }
    }
  };
  window.addEventListener("keydown", pressed);
  return () => window.removeEventListener("keydown", pressed);
}
"""
_listener = st.components.v2.component("vmoer_keys", js=_LISTEN)

_NOUNS = {"example": "question"}
_MOVES = "\n".join(
    f"| `{back}` / `{on}` | previous / next {_NOUNS.get(name, name)} |" for name, (back, on) in KEYS.items()
)
HELP = f"""
**Keys**

| key | what it does |
|---|---|
{_MOVES}
| `/` | go to the first choice of the page |
| `?` | this help |
| `Esc` | close a window or list |

**Reading a page**

- Every chart says in its caption what is counted (n), the interval, and which way is better. *What is this?* holds the
  formula and the pitfalls, *Card* what is needed to make the figure again, *Export* the numbers and the picture.
- A click on a layer, an expert, a cell or a point chooses it; the choice goes along to the other pages.
- The address bar always holds what is shown: copy it to share exactly this view.
- Colours follow the system's light or dark setting; *Settings* in the menu ⋮ overrides it.

**When something is missing**, the page says which command makes it. `vmoer doctor` checks the installation,
`vmoer verify` the stored results.
"""


@st.dialog("Help", width="medium")
def _open() -> None:
    st.markdown(HELP)


def help_key() -> None:
    """A ``?`` button, and the listener that makes the key do the same."""
    asked = st.button("?", key="help", help="Keys and how to read a page (or press ?)", type="tertiary")
    heard = _listener(key="keys", on_asked_change=lambda: None).asked
    if asked or heard:
        _open()
