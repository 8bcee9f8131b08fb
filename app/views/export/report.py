"""A comparison of two runs as one HTML file that needs nothing but itself.

Charts are embedded pictures, each table is a link that holds its own CSV, there is no script, and a content policy
forbids every request.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.downloads import files
from app.downloads.bundle import slug
from app.downloads.files import Section
from app.shared.format import MISSING

SHOWN_ROWS = 60
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def html_report(title: str, lead: Sequence[str], sections: Sequence[Section], card: Mapping[str, Any]) -> bytes:
    """Return the report: lead, sections with chart, note and table, and the reproducibility card."""
    page = _TEMPLATES.get_template("report.html").render(
        title=title,
        lead=lead,
        synthetic=sorted({str(run.get("model")) for run in card["runs"] if run.get("synthetic")}),
        sections=[_section(one) for one in sections],
        card=json.dumps(files.plain_json(card), indent=1, ensure_ascii=False),
    )
    return page.encode("utf-8")


def _section(section: Section) -> dict[str, Any]:
    """Return what the template shows of a section: its picture, its first rows as text, all of it as CSV."""
    table = section.table
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    picture = None
    if section.chart is not None:
        picture = _base64(files.svg_bytes(files.chart_spec(section.chart, section.title, {})))
    return {
        "title": section.title,
        "note": section.note,
        "picture": picture,
        "file": slug(section.title),
        "csv": _base64(files.csv_bytes(table)),
        "count": len(table),
        "columns": [str(name) for name in table.columns],
        "rows": [
            list(zip(map(_cell, row), numeric, strict=True))
            for row in table.head(SHOWN_ROWS).itertuples(index=False, name=None)
        ],
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _cell(value: Any) -> str:
    plain = files.plain_json(value)
    if plain is None:
        return MISSING
    return f"{plain:.4g}" if isinstance(plain, float) else str(plain)
