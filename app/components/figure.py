"""A figure: title, what it counts, the chart, and in reach its formula, card, table and downloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from app import exports
from app.components.card import card_popover
from app.components.explain import metric_help


def figure(
    title: str,
    chart: alt.TopLevelMixin | Sequence[alt.TopLevelMixin],
    table: pd.DataFrame,
    *,
    key: str,
    note: str,
    alt_text: str,
    card: Mapping[str, Any],
    explains: Sequence[str] = (),
    selection: str | None = None,
    on_select: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Draw one figure. ``table`` is what the chart plots; several charts are drawn as small multiples that wrap.

    ``note`` states n, interval and direction. ``on_select`` gets the first point that the reader clicked.
    """
    heading(title, note, key=key, card=card, explains=explains, table=table, chart=chart)
    if isinstance(chart, Sequence):
        with st.container(horizontal=True, gap="medium"):
            for number, tile in enumerate(chart):
                st.altair_chart(tile, width="content", key=f"{key}.chart.{number}", alt=alt_text)
    elif selection and on_select:
        chart_key = f"{key}.chart"

        def selected() -> None:
            points = st.session_state[chart_key]["selection"].get(selection)
            if points:
                on_select(points[0])

        st.altair_chart(
            chart, width="stretch", key=chart_key, alt=alt_text, on_select=selected, selection_mode=selection
        )
    else:
        st.altair_chart(chart, width="stretch", key=f"{key}.chart", alt=alt_text)
    table_behind(table, key=key)


def heading(
    title: str,
    note: str,
    *,
    key: str,
    card: Mapping[str, Any],
    table: pd.DataFrame,
    explains: Sequence[str] = (),
    chart: alt.TopLevelMixin | Sequence[alt.TopLevelMixin] | None = None,
) -> None:
    """The line above a figure or table: title, formula, card, downloads; and below it what is counted."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"#### {title}", anchors=False)
        if explains:
            metric_help(explains, key=key)
        card_popover(card, key=key)
        downloads(table, chart, key=key, title=title, card=card)
    st.caption(note)


def table_behind(table: pd.DataFrame, *, key: str) -> None:
    """The numbers of a chart as a table, folded."""
    with st.expander(f"Table behind it ({len(table):,} rows)", key=f"{key}.table"):
        st.dataframe(table, hide_index=True, key=f"{key}.frame", alt=f"The numbers plotted above, {len(table)} rows")


def downloads(
    table: pd.DataFrame,
    chart: alt.TopLevelMixin | Sequence[alt.TopLevelMixin] | None,
    *,
    key: str,
    title: str,
    card: Mapping[str, Any],
) -> None:
    """A popover with the table and the chart in every format; files are made when asked for."""
    stem = key.replace(".", "-")

    def spec() -> dict[str, Any]:
        whole = alt.concat(*chart, columns=4) if isinstance(chart, Sequence) else chart
        return exports.chart_spec(whole, title, card)

    tables: list[tuple[str, str, str, Callable[[], bytes]]] = [
        ("CSV", "csv", "text/csv", lambda: exports.csv_bytes(table)),
        ("Parquet", "parquet", "application/vnd.apache.parquet", lambda: exports.parquet_bytes(table, card)),
        ("JSON", "json", "application/json", lambda: exports.json_bytes(table, card)),
        ("LaTeX", "tex", "application/x-tex", lambda: exports.latex_bytes(table, card, title)),
    ]
    charts: list[tuple[str, str, str, Callable[[], bytes]]] = [
        ("PNG", "png", "image/png", lambda: exports.png_bytes(spec())),
        ("SVG", "svg", "image/svg+xml", lambda: exports.svg_bytes(spec())),
        ("Vega-Lite", "vl.json", "application/json", lambda: exports.vega_bytes(spec())),
    ]
    with st.popover("Export", type="tertiary", key=f"{key}.export", help="Numbers and chart as files"):
        st.caption(f"Numbers, {len(table):,} rows, all columns")
        _buttons(tables, stem, key)
        if chart is not None:
            st.caption("Chart, light colours")
            _buttons(charts, stem, key)


def _buttons(files: Sequence[tuple[str, str, str, Callable[[], bytes]]], stem: str, key: str) -> None:
    with st.container(horizontal=True, gap="small"):
        for name, suffix, mime, make in files:
            st.download_button(
                name, make, file_name=f"vmoer-{stem}.{suffix}", mime=mime, key=f"{key}.{suffix}", on_click="ignore"
            )
