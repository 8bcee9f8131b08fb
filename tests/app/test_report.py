"""A report is one file that needs nothing else, holds the stored numbers, and executes nothing from outside."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from app.downloads.bundle import bundle, slug
from app.downloads.files import Section
from app.shared.data import open_data
from app.shared.page import Page
from app.shared.settings import Settings
from app.views.export import report
from app.views.export.sections import sections
from store.reader import open_store
from tests.store.factory import make_store, run_id

FIRST, SECOND = run_id("deterministic"), run_id("fcvr")
CARD = {"figure": "Report", "query": "all", "generation": "1", "runs": [{"run_id": FIRST, "model": "m"}]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    make_store(folder, runs=("deterministic", "fcvr"), layers=3, experts=6, top_k=2, examples=30)
    return folder


@pytest.fixture(scope="module")
def made(home: Path) -> list[Section]:
    data = open_data(home)
    assert data is not None
    page = Page(Settings(home=home), data, None, data("runs"))  # type: ignore[arg-type]  # a report has no link
    return sections(page, FIRST, SECOND)


def test_a_comparison_has_every_kind_of_figure(made: list[Section]) -> None:
    titles = [section.title for section in made]
    for part in ("Numbers", "Paired", "changed", "Confidence", "Reliability", "Risk", "Stability", "AUROC", "experts?"):
        assert any(part in title for title in titles), part
    assert all(section.note and len(section.table) for section in made)


def test_the_numbers_are_the_stored_ones(made: list[Section], home: Path) -> None:
    shown = made[0].table.set_index(["run_id", "dataset", "metric"])["value"]
    with open_store(home) as store:
        stored = store.query("SELECT * FROM metrics WHERE score = ''").set_index(["run_id", "dataset", "metric"])
    assert set(shown.index.get_level_values("run_id")) == {FIRST, SECOND}
    for key, value in shown.dropna().items():
        assert value == stored.loc[key, "value"]


def test_the_html_stands_alone_and_its_tables_hold_the_numbers(made: list[Section]) -> None:
    text = report.html_report("A & B", ["<lead>"], made, CARD).decode()
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)
    assert "A &amp; B" in text
    assert "&lt;lead&gt;" in text
    files = [base64.b64decode(found) for found in re.findall(r'href="data:text/csv;base64,([^"]+)"', text)]
    assert len(files) == len(made)
    for content, section in zip(files, made, strict=True):
        back = pd.read_csv(io.BytesIO(content))
        assert len(back) == len(section.table)
        for name in section.table.select_dtypes("number"):
            pd.testing.assert_series_equal(back[name], section.table[name], check_dtype=False, rtol=1e-15)


def test_text_from_outside_stays_text() -> None:
    frame = pd.DataFrame({"<b>": ["<script>alert(1)</script>", "=1+1"]})
    section = Section("<i>t</i>", "</p><script>", None, frame)
    text = report.html_report("t", [], [section], {**CARD, "runs": [{"model": "<x>", "synthetic": True}]}).decode()
    assert "<script" not in text
    assert "<i>" not in text
    assert "&lt;x&gt;" in text


def test_the_archive_has_every_table_and_chart_with_the_card(made: list[Section]) -> None:
    some = [made[0], next(section for section in made if section.chart is not None)]
    with zipfile.ZipFile(io.BytesIO(bundle(some, CARD))) as archive:
        names = archive.namelist()
        assert json.loads(archive.read("card.json")) == CARD
        assert sum(name.endswith((".csv", ".parquet", ".json", ".tex")) for name in names) == 2 * 4 + 1 + 1
        assert sum(name.endswith((".png", ".svg", ".vl.json")) for name in names) == 3
        spec = json.loads(archive.read(next(name for name in names if name.endswith(".vl.json"))))
        assert spec["usermeta"] == CARD


@pytest.mark.parametrize(("text", "expected"), [("Risk — on ../x", "risk-on-x"), ("ß€", "table"), ("a" * 99, "a" * 60)])
def test_titles_become_harmless_file_names(text: str, expected: str) -> None:
    assert slug(text) == expected
