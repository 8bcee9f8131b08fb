"""Downloads hold the plotted numbers, the card, and nothing a spreadsheet would execute."""

from __future__ import annotations

import io
import json

import altair as alt
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from app.downloads import files as exports

CARD = {"figure": "Runs", "query": "runs", "generation": "3", "runs": [{"run_id": "a", "seed": 0}]}
FRAME = pd.DataFrame(
    {
        "name": ["plain", "=1+1", "@cmd", "-2"],
        "value": [0.1, -0.25, np.nan, 1e-17],
        "experts": [np.array([1, 2]), np.array([3]), None, np.array([], dtype=int)],
    }
)


def test_csv_round_trips_numbers_exactly_and_defuses_formulas() -> None:
    assert exports.csv_bytes(FRAME).startswith(b"\xef\xbb\xbf"), "so that Excel reads it as UTF-8"
    back = pd.read_csv(io.BytesIO(exports.csv_bytes(FRAME)))
    assert back["value"].tolist()[:2] == [0.1, -0.25]
    assert back["value"].isna().tolist() == [False, False, True, False]
    assert back["name"].tolist() == ["plain", "'=1+1", "'@cmd", "'-2"]
    assert json.loads(back["experts"][0]) == [1, 2]


def test_parquet_holds_the_frame_and_the_card() -> None:
    table = pq.read_table(io.BytesIO(exports.parquet_bytes(FRAME, CARD)))
    assert table.num_rows == 4
    assert json.loads(table.schema.metadata[b"vmoer"]) == CARD


def test_json_writes_missing_values_as_null() -> None:
    found = json.loads(exports.json_bytes(FRAME, CARD))
    assert found["card"] == CARD
    assert found["rows"][2] == {"name": "@cmd", "value": None, "experts": None}


def test_latex_escapes_what_would_break_the_table() -> None:
    text = exports.latex_bytes(pd.DataFrame({"a_b": ["50 % & more"], "n": [3]}), CARD, "Runs & more").decode()
    assert r"a\_b & n \\" in text
    assert r"50 \% \& more & 3 \\" in text
    assert r"\toprule" in text
    assert "% " + json.dumps(CARD, indent=1).splitlines()[1] in text


def test_chart_files_carry_data_title_and_card() -> None:
    chart = alt.Chart(pd.DataFrame({"x": [1, 2], "y": [3.0, np.nan]})).mark_point().encode(x="x:Q", y="y:Q")
    spec = exports.chart_spec(chart, "A title", CARD)
    assert spec["title"]["text"] == "A title"
    assert spec["usermeta"] == CARD
    assert list(spec["datasets"].values()) == [[{"x": 1, "y": 3.0}, {"x": 2, "y": None}]]
    assert exports.png_bytes(spec).startswith(b"\x89PNG")
    assert b"<svg" in exports.svg_bytes(spec)
    assert json.loads(exports.vega_bytes(spec))["title"] == spec["title"]
    named = {"runs": [{"run_id": f"r{number}"} for number in range(5)], "dataset": "test"}
    assert exports.chart_spec(chart, "A title", named)["title"]["subtitle"] == "r0, r1, r2 and 2 more, on test"
