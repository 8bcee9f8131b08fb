"""A figure: title, what it counts, the chart, and in reach its formula, card, table and downloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import altair as alt
import pandas as pd
import streamlit as st

from app.downloads import files as exports
from app.downloads.files import Section
from app.figures.render import screen_spec
from app.shared.card import card_popover
from app.shared.fragment import draw_fragment, folded, popover
from app.shared.metric_help import metric_help
from app.shared.page_file import add_figure
from app.shared.text import counted, plain, prose


@dataclass(frozen=True)
class Tile:
    """One of several small multiples: its own heading, the lines below that, and the chart.

    With a ``width`` the chart fits a box that wide, less where the screen is narrower; without, it keeps its own size.
    """

    title: str
    chart: alt.TopLevelMixin
    lines: Sequence[str] = ()
    width: int | None = None


Drawing: TypeAlias = alt.TopLevelMixin | Sequence[Tile]


@dataclass(frozen=True)
class Figure:
    """One figure, drawn or not. ``table`` is what the chart plots; tiles are drawn as small multiples that wrap.

    ``note`` states n, interval and direction. With a ``width`` it is no wider than that, however wide the page.
    ``on_select`` gets the first point that the reader clicked.
    """

    title: str
    chart: Drawing
    table: pd.DataFrame
    key: str
    note: str
    alt_text: str
    card: Mapping[str, Any]
    explains: Sequence[str] = ()
    selection: str | None = None
    on_select: Callable[[dict[str, Any]], None] | None = None
    width: int | None = None

    def draw(self) -> None:
        """Draw it on the page."""
        heading(
            self.title,
            self.note,
            key=self.key,
            card=self.card,
            explains=self.explains,
            table=self.table,
            chart=self.chart,
        )
        if isinstance(self.chart, Sequence):
            with st.container(horizontal=True, gap="medium"):
                for number, tile in enumerate(self.chart):
                    _tile(tile, key=f"{self.key}.{number}", alt_text=self.alt_text)
        else:
            with st.container(width=self.width or "stretch"):
                _chart(
                    self.chart,
                    key=f"{self.key}.chart",
                    alt_text=self.alt_text,
                    selection=self.selection,
                    on_select=self.on_select,
                )
        table_behind(self.table, key=self.key)

    def section(self) -> Section:
        """It as a file holds it."""
        return Section(self.title, self.note, one_chart(self.chart), self.table, self.card)


def figure(title: str, chart: Drawing, table: pd.DataFrame, **rest: Any) -> None:
    """Draw one figure; the arguments are those of :class:`Figure`."""
    Figure(title, chart, table, **rest).draw()


def _tile(tile: Tile, *, key: str, alt_text: str) -> None:
    with st.container(width=tile.width or "content", gap="xsmall"):
        st.markdown("  \n".join([f"**{plain(tile.title)}**", *(f":small[{plain(line)}]" for line in tile.lines)]))
        st.vega_lite_chart(
            spec=screen_spec(tile.chart, "width" if tile.width else "none"),
            width="stretch" if tile.width else "content",
            key=f"{key}.chart",
            alt=f"{tile.title}: {alt_text}",
        )


def _chart(
    chart: alt.TopLevelMixin,
    *,
    key: str,
    alt_text: str,
    selection: str | None,
    on_select: Callable[[dict[str, Any]], None] | None,
) -> None:
    spec = screen_spec(chart, "width")
    if selection is None or on_select is None:
        st.vega_lite_chart(spec=spec, width="stretch", key=key, alt=alt_text)
        return

    def selected() -> None:
        points = st.session_state[key]["selection"].get(selection)
        if points:
            on_select(points[0])

    st.vega_lite_chart(spec=spec, width="stretch", key=key, alt=alt_text, on_select=selected, selection_mode=selection)


def heading(
    title: str,
    note: str,
    *,
    key: str,
    card: Mapping[str, Any],
    table: pd.DataFrame,
    explains: Sequence[str] = (),
    chart: Drawing | None = None,
) -> None:
    """The line above a figure or table: title, formula, card, downloads; and below it what is counted."""

    def tools() -> None:
        with st.container(horizontal=True, width="content", gap="small"):
            if explains:
                metric_help(explains, key=key)
            card_popover(card, key=key)
            downloads(table, chart, key=key, title=title, card=card)

    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"#### {plain(title)}", anchors=False, width="content")
        # One group, so that a narrow window moves all of it below the title.
        with st.container(width="content"):
            draw_fragment(tools)
    st.caption(prose(note))
    add_figure(key, lambda: Section(title, note, None if chart is None else one_chart(chart), table, card))


def table_behind(table: pd.DataFrame, *, key: str) -> None:
    """The numbers of a chart as a table, folded."""

    def rows() -> None:
        st.dataframe(table, hide_index=True, key=f"{key}.frame", alt=f"The numbers plotted above, {size}")

    size = counted(len(table), "row")
    folded(f"Table behind it ({size})", rows, key=f"{key}.table")


def one_chart(chart: Drawing) -> alt.TopLevelMixin:
    """Small multiples as one chart, each with its title, for files; a single chart as it is."""
    if not isinstance(chart, Sequence):
        return chart
    titled = [
        tile.chart.properties(
            title=alt.Title(tile.title, subtitle=list(tile.lines)), **({"width": tile.width} if tile.width else {})
        )
        for tile in chart
    ]
    return alt.concat(*titled, columns=4)


def downloads(
    table: pd.DataFrame,
    chart: Drawing | None,
    *,
    key: str,
    title: str,
    card: Mapping[str, Any],
) -> None:
    """A popover with the table and the chart in every format; files are made when asked for."""
    stem = key.replace(".", "-")

    def spec() -> dict[str, Any]:
        assert chart is not None
        return exports.chart_spec(one_chart(chart), title, card)

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

    def buttons() -> None:
        st.caption(f"Numbers, {counted(len(table), 'row')}, all columns")
        _buttons(tables, stem, key)
        if chart is not None:
            st.caption("Chart, light colours")
            _buttons(charts, stem, key)

    popover("Export", buttons, key=f"{key}.export", help="Numbers and chart as files")


def _buttons(files: Sequence[tuple[str, str, str, Callable[[], bytes]]], stem: str, key: str) -> None:
    with st.container(horizontal=True, gap="small"):
        for name, suffix, mime, make in files:
            st.download_button(
                name, make, file_name=f"vmoer-{stem}.{suffix}", mime=mime, key=f"{key}.{suffix}", on_click="ignore"
            )
