"""What a download holds: the table behind a chart (CSV, Parquet, JSON, LaTeX) and the chart (PNG, SVG, Vega-Lite).

Every file carries the reproducibility card of its runs, so that a figure found a year later can be traced.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import vl_convert

from app.figures import palette
from app.figures.render import specification
from store.export import FORMULA, LATEX

#: how many runs a picture names; the others are counted
NAMED = 3


@dataclass(frozen=True)
class Section:
    """One figure as a file holds it: what it says, its chart and card where it has them, and the numbers."""

    title: str
    note: str
    chart: alt.TopLevelMixin | None
    table: pd.DataFrame
    card: Mapping[str, Any] | None = None


def plain_json(value: Any) -> Any:
    """``value`` as JSON knows it: lists for arrays, ``None`` for missing."""
    if isinstance(value, np.ndarray):
        return [plain_json(item) for item in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): plain_json(value) for name, value in row.items()} for row in frame.to_dict(orient="records")]


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """``frame`` as CSV in UTF-8 with the mark by which Excel knows it.

    Text that a spreadsheet would run as a formula is prefixed with an apostrophe.
    """

    def safe(value: Any) -> Any:
        value = plain_json(value)
        if isinstance(value, list):
            value = json.dumps(value)
        return f"'{value}" if isinstance(value, str) and re.match(FORMULA, value) else value

    columns = {
        name: (column if pd.api.types.is_numeric_dtype(column) else column.map(safe)) for name, column in frame.items()
    }
    return (
        pd.DataFrame(columns, columns=frame.columns)
        .to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)
        .encode("utf-8-sig")
    )


def parquet_bytes(frame: pd.DataFrame, card: Mapping[str, Any]) -> bytes:
    """``frame`` as zstd Parquet with the card as JSON under the schema key ``vmoer``."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"vmoer": json.dumps(plain_json(card)).encode("utf-8")}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    return buffer.getvalue()


def json_bytes(frame: pd.DataFrame, card: Mapping[str, Any]) -> bytes:
    """``{"card": …, "rows": […]}`` with ``null`` for missing values."""
    return json.dumps({"card": plain_json(card), "rows": _rows(frame)}, ensure_ascii=False, indent=1).encode("utf-8")


def latex_bytes(frame: pd.DataFrame, card: Mapping[str, Any], caption: str) -> bytes:
    """A booktabs table with the card as comments above it; needs ``\\usepackage{booktabs}``."""

    def cell(value: Any) -> str:
        value = plain_json(value)
        if value is None:
            return "--"
        if isinstance(value, float):
            return f"{value:.4g}"
        if isinstance(value, list):
            return cell(", ".join(cell(item) for item in value))
        return str(value).translate(LATEX)

    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    comments = [f"% {line}" for line in json.dumps(plain_json(card), ensure_ascii=False, indent=1).splitlines()]
    lines = [
        *comments,
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{cell(caption)}}}",
        rf"\begin{{tabular}}{{{''.join('r' if number else 'l' for number in numeric)}}}",
        r"\toprule",
        " & ".join(cell(name) for name in frame.columns) + r" \\",
        r"\midrule",
        *(" & ".join(cell(value) for value in row) + r" \\" for row in frame.itertuples(index=False, name=None)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return ("\n".join(lines) + "\n").encode("utf-8")


def chart_spec(chart: alt.TopLevelMixin, title: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """The complete Vega-Lite specification of ``chart``: data inside, title, light colours, card in ``usermeta``.

    Below the title stand the runs of the card, and the data set where it names one: a picture holds no more of it.
    """
    spec, frames = specification(chart)
    spec["datasets"] = {name: _rows(frame) for name, (frame, _) in frames.items()}
    spec["title"] = {"text": title, "anchor": "start", "fontSize": 15, "offset": 12}
    runs = [str(run["run_id"]) for run in card.get("runs", ())]
    if runs:
        more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
        on = f", on {card['dataset']}" if "dataset" in card else ""
        spec["title"] |= {"subtitle": f"{', '.join(runs[:NAMED])}{more}{on}", "subtitleFontSize": 11}
    spec["config"] = {**spec.get("config", {}), **palette.export_config("light")}
    spec["usermeta"] = plain_json(card)
    # On screen the browser decides the width; a file needs one.
    if not {"width", "concat", "vconcat"} & spec.keys():
        spec["width"] = 860
    return spec


def svg_bytes(spec: dict[str, Any]) -> bytes:
    """The chart as SVG, drawn locally."""
    return str(vl_convert.vegalite_to_svg(spec)).encode("utf-8")


def png_bytes(spec: dict[str, Any], scale: float = 2.0) -> bytes:
    """The chart as PNG, drawn locally at ``scale`` times its size."""
    return bytes(vl_convert.vegalite_to_png(spec, scale=scale))


def vega_bytes(spec: dict[str, Any]) -> bytes:
    """The Vega-Lite specification as JSON."""
    return json.dumps(spec, ensure_ascii=False, indent=1).encode("utf-8")
