"""A comparison of two runs as one file: an HTML report, or a ZIP with every table and chart. Nothing in it is live.

The HTML needs nothing but itself: charts are embedded pictures, each table is a link that holds its own CSV, there is
no script, and a content policy forbids every request.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from app.downloads import files as exports
from app.downloads.bundle import slug
from app.downloads.files import Section
from app.shared.format import MISSING

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1B2430; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: .2rem } h2 { margin-top: 2.4rem; border-top: 1px solid #D5DAE1; padding-top: 1rem }
img { max-width: 100%; height: auto } .note { color: #4A5563 } .warn { background: #FFF4D6; padding: .7rem 1rem }
table { border-collapse: collapse; font-size: 13px } td, th { border: 1px solid #D5DAE1; padding: .2rem .5rem }
td.number { text-align: right } pre { background: #F2F4F7; padding: 1rem; overflow: auto; font-size: 12px }
.scroll { overflow-x: auto }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SHOWN_ROWS = 60


def html_report(title: str, lead: Sequence[str], sections: Sequence[Section], card: Mapping[str, Any]) -> bytes:
    """The report as one HTML file: lead, sections with chart, note and table, and the reproducibility card."""
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{_POLICY}"><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>',
        *(f"<p>{html.escape(line)}</p>" for line in lead),
    ]
    synthetic = sorted({str(run.get("model")) for run in card["runs"] if run.get("synthetic")})
    if synthetic:
        parts.append(
            f'<p class="warn"><b>Synthetic model</b> {html.escape(", ".join(synthetic))}: random weights or a toy '
            "model; its numbers say nothing about models people use.</p>"
        )
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2><p class='note'>{html.escape(section.note)}</p>")
        if section.chart is not None:
            picture = exports.svg_bytes(exports.chart_spec(section.chart, section.title, {}))
            source = base64.b64encode(picture).decode("ascii")
            parts.append(
                f'<img src="data:image/svg+xml;base64,{source}" alt="{html.escape(section.note, quote=True)}">'
            )
        parts.append(_table(section))
    text = html.escape(json.dumps(exports.plain_json(card), indent=1, ensure_ascii=False))
    parts.append(f"<h2>Reproducibility card</h2><pre>{text}</pre></body></html>")
    return "\n".join(parts).encode("utf-8")


def _table(section: Section) -> str:
    """The first rows of the table, folded unless there is no chart, and a link that holds all of it as CSV."""
    table = section.table
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table.columns)
    rows = []
    for row in table.head(SHOWN_ROWS).itertuples(index=False, name=None):
        cells = [
            f'<td class="number">{_cell(value)}</td>' if number else f"<td>{_cell(value)}</td>"
            for value, number in zip(row, numeric, strict=True)
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    data = base64.b64encode(exports.csv_bytes(table)).decode("ascii")
    count = f"{len(table):,} rows" + (f", the first {SHOWN_ROWS} shown" if len(table) > SHOWN_ROWS else "")
    link = f'<a download="{slug(section.title)}.csv" href="data:text/csv;base64,{data}">all of it as CSV</a>'
    opened = " open" if section.chart is None else ""
    return (
        f"<details{opened}><summary>Table ({count}; {link})</summary><div class='scroll'>"
        f"<table><tr>{head}</tr>{''.join(rows)}</table></div></details>"
    )


def _cell(value: Any) -> str:
    plain = exports.plain_json(value)
    if plain is None:
        return MISSING
    return html.escape(f"{plain:.4g}" if isinstance(plain, float) else str(plain))
