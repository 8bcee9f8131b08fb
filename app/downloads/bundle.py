"""A ZIP of tables and charts."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from app.downloads import files as exports
from app.downloads.files import Section


def slug(text: str) -> str:
    """``text`` as a file name: lower case, letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "table"


def bundle(sections: Sequence[Section], card: Mapping[str, Any]) -> bytes:
    """A ZIP with each section's table (CSV, Parquet, JSON, LaTeX) and chart (PNG, SVG, Vega-Lite), and the card.

    A section that brings a card of its own carries that one instead.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, section in enumerate(sections, start=1):
            stem = f"{number:02d}-{slug(section.title)}"
            own = section.card or card
            files = {
                "csv": exports.csv_bytes(section.table),
                "parquet": exports.parquet_bytes(section.table, own),
                "json": exports.json_bytes(section.table, own),
                "tex": exports.latex_bytes(section.table, own, section.title),
            }
            if section.chart is not None:
                spec = exports.chart_spec(section.chart, section.title, own)
                files |= {
                    "png": exports.png_bytes(spec),
                    "svg": exports.svg_bytes(spec),
                    "vl.json": exports.vega_bytes(spec),
                }
            for suffix, content in files.items():
                archive.writestr(f"{stem}.{suffix}", content)
        archive.writestr("card.json", json.dumps(exports.plain_json(card), indent=1, ensure_ascii=False))
    return buffer.getvalue()
