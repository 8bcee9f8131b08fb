"""Export: tables of the chosen runs in every format, one self-contained database, and a report of a comparison."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from app.comparison import paired_answers as pairs
from app.downloads.bundle import bundle
from app.downloads.files import Section
from app.pages import path_of
from app.shared import runs as run_names
from app.shared import states
from app.shared.card import card_popover
from app.shared.choice_row import choice_row
from app.shared.page import Page, open_page
from app.shared.text import plain
from app.views.export import report
from app.views.export.sections import sections
from store import schema

PATH = path_of("export")
FORMATS = {
    "csv": ("CSV", "text/csv"),
    "parquet": ("Parquet", "application/vnd.apache.parquet"),
    "json": ("JSON", "application/json"),
    "latex": ("LaTeX", "application/x-tex"),
    "duckdb": ("DuckDB", "application/octet-stream"),
}
_SUFFIXES = {"latex": "tex"}
MEGABYTE = 1_000_000


def size_text(n_bytes: int) -> str:
    """Bytes in the unit a reader thinks in."""
    return f"{n_bytes / MEGABYTE:,.1f} MB" if n_bytes >= MEGABYTE / 10 else f"{n_bytes / 1000:,.0f} kB"


def too_large(page: Page, n_bytes: int) -> bool:
    """Whether that much is more than a page should turn into one download."""
    return n_bytes > page.settings.max_export * MEGABYTE


def draw_table(page: Page, run_ids: list[str], table: str) -> None:
    """One table of the chosen runs: what it holds, and its files."""
    spec = schema.TABLES[table]
    stored = page.data.stored_bytes(tuple(run_ids), (table,))
    size = f"{size_text(stored)} of shards" if stored else "small, kept in the database"
    st.caption(f"One row = {plain(spec.row)}. Key: {plain(', '.join(spec.key))}. {size}.")
    if too_large(page, stored):
        states.empty(
            f"`{table}` is too large for a download from a page",
            "\n".join(f"vmoer export {one} {table} --format parquet --output {one}.{table}.parquet" for one in run_ids),
            why=f"Pages make files of up to {page.settings.max_export} MB of shards; the command has no limit.",
        )
    else:
        with st.container(horizontal=True, gap="small"):
            for form, (name, mime) in FORMATS.items():
                st.download_button(
                    name,
                    partial(page.data.exported, tuple(run_ids), table, form),
                    file_name=f"vmoer-{table}.{_SUFFIXES.get(form, form)}",
                    mime=mime,
                    key=f"table.{form}",
                    on_click="ignore",
                )
        with st.expander("The same from the command line"):
            command = f"vmoer export {run_ids[0]} {table} --format csv --output {table}.csv"
            st.code(command, language="bash", wrap_lines=True)
    columns = [(one.name, one.type, one.meaning, "may be empty" if one.nullable else "") for one in spec.columns]
    with st.expander(f"Columns of {table} ({len(columns)})"):
        frame = pd.DataFrame(columns, columns=["column", "type", "meaning", "empty = not applicable"])
        st.dataframe(frame, hide_index=True, key="columns", alt=f"Columns of table {table}")


def draw_database(page: Page, run_ids: list[str]) -> None:
    """Every table of the chosen runs as one DuckDB file."""
    st.markdown("### One file with everything", anchors=False)
    stored = page.data.stored_bytes(tuple(run_ids), tuple(schema.TABLES))
    st.caption(
        f"A DuckDB database with all {len(schema.TABLES)} tables of the chosen runs, facts included, and their "
        f"reproducibility card in table `card`; {size_text(stored)} of shards. It needs nothing but itself."
    )
    if too_large(page, stored):
        big = ("routing", "tokens")
        command = "\n".join(f"vmoer export {run_ids[0]} {one} --format duckdb --output {one}.duckdb" for one in big)
        why = f"Pages make files of up to {page.settings.max_export} MB of shards; the command has no limit."
        states.empty("Too large for a download from a page", command, why=why)
        return
    st.download_button(
        "DuckDB, all tables",
        lambda: page.data.exported(tuple(run_ids), None, "duckdb"),
        file_name="vmoer.duckdb",
        mime="application/octet-stream",
        key="database",
        on_click="ignore",
    )


def draw_report(page: Page, first: str, second: str) -> None:
    """The comparison of both runs as a report, and as a ZIP of its figures."""
    st.markdown("### Report of the comparison", anchors=False)
    card = page.card([first, second], "Report", "all pages")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(
            f"{plain(page.label(second))} against {plain(page.label(first))}: numbers with intervals, paired "
            "differences, flips, reliability, layers, OoD, and the reproducibility card.",
            width="content",
        )
        card_popover(card, key="report")
    rows = page.data("paired_predictions", first, second)
    counts = [len(page.data("predictions", run_id)) for run_id in (first, second)]
    if rows.empty:
        st.info("No question is stored that both runs answered; the report holds what does not need a pair.")
        lead = "No question is stored that both runs answered, so nothing is paired."
    else:
        lead = pairs.shared_note(counts[0], counts[1], len(rows))
        st.caption(lead)

    def made() -> list[Section]:
        return sections(page, first, second)

    def written() -> bytes:
        title = f"{page.label(second)} against {page.label(first)}"
        said = f"Second run {second}, first run {first}; generation {page.data.key[1]}. {lead}"
        return report.html_report(title, [said], made(), card)

    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "Report (HTML, one file)",
            written,
            file_name="vmoer-report.html",
            mime="text/html",
            key="report.html",
            on_click="ignore",
            type="primary",
        )
        st.download_button(
            "Its tables and charts (ZIP)",
            lambda: bundle(made(), card),
            file_name="vmoer-report.zip",
            mime="application/zip",
            key="report.zip",
            on_click="ignore",
            help="Each table as CSV, Parquet, JSON and LaTeX, each chart as PNG, SVG and Vega-Lite",
        )


def render() -> None:
    """Draw the page."""
    page = open_page(
        PATH,
        "Export",
        "Take the results with you: tables, one database, or a report that needs nothing but itself. "
        "On every page, charts have their own *Export*, and *Page as ZIP* takes all of them.",
    )
    link = page.link
    run_ids = page.runs["run_id"].tolist()
    second = link.pick("run", run_ids, run_names.default_run(page.runs))
    assert second is not None
    default = run_names.deterministic_of(page.runs, second)
    first = link.pick("baseline", run_ids, default or second)
    assert first is not None
    table = link.pick("table", list(schema.TABLES), "metrics")
    link.commit()
    with choice_row():
        with st.container(width=560):
            link.select("baseline", "First run", run_ids, show=page.option)
        with st.container(width=560):
            link.select("run", "Second run", run_ids, show=page.option)
    chosen = list(dict.fromkeys([first, second]))
    page.banners(chosen)
    if first != second:
        draw_report(page, first, second)
    elif len(page.runs) == 1:
        st.info("There is only one run; a report of a comparison needs two.")
    else:
        st.info("Both sides name the same run; choose another one for a report of a comparison.")
    st.markdown("### Tables", anchors=False)
    with st.container(width=420):
        link.select("table", "Table of the chosen runs", list(schema.TABLES), show=_table_name)
    draw_table(page, chosen, str(table))
    draw_database(page, chosen)


def _table_name(name: Any) -> str:
    return f"{name}: {schema.TABLES[name].row}"


render()
