"""What the theme file cannot say: text stays readable where Streamlit dims it, headings stand in line with buttons."""

from __future__ import annotations

import streamlit as st

from app.figures.palette import NEUTRAL

# Captions hold n, interval and direction, so they must be read: 0.6 of the text's colour, and the grey of axes and
# labels, stay below 4.5:1 on a light page.
# On a phone: choices side by side share their borders, which look broken once they wrap, and keys are of no use.
_STYLE = f"""<style>
[data-testid="stCaptionContainer"] {{ opacity: 0.8; }}
[data-testid="stVegaLiteChart"] svg.marks
  :is(.role-axis-label, .role-axis-title, .role-legend-label, .role-legend-title) text,
[data-testid="stVegaLiteChart"] svg.marks .mark-text.role-mark text[fill="{NEUTRAL}"]
  {{ fill: currentColor; fill-opacity: 0.8; }}
[data-testid="stHorizontalBlock"] > [data-testid="stElementContainer"] :is(h3, h4) {{ padding-top: 0; }}
@media (max-width: 640px) {{
  [data-testid="stButtonGroup"] [role="radiogroup"] {{ gap: 0.4rem; flex-wrap: wrap; mask: none; }}
  [data-testid="stButtonGroup"] [role="radio"] {{ margin: 0; border-radius: 0.5rem; }}
  [data-testid="stButtonGroup"] [role="radio"][aria-checked="false"]
    {{ border-color: color-mix(in srgb, currentColor 18%, transparent) !important; }}
  [data-testid="stMain"] button kbd {{ display: none; }}
}}
</style>"""


def readable() -> None:
    """Put the style into the page; :func:`app.components.page.head` does so on every page."""
    st.html(_STYLE)
