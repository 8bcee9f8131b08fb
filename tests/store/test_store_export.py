"""Exports: what other programs read from the file is what the store holds, and a cell never runs as a formula."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import duckdb
import numpy as np
import pandas as pd
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.cli.bench import manifest
from store import schema
from store.catalog import read_manifest, seal, write_manifest
from store.errors import CorruptShardError, NotFoundError, StoreError
from store.export import FORMATS, export_table
from store.publish import publish
from store.reader import open_store
from store.shards import list_shards, write_shard
from tests.store.conftest import FCVR

TABLES = list(schema.TABLES)


def _expected(store, table):
    source = {"models": "true", "datasets": "true"}.get(table, f"run_id = '{FCVR}'")
    key = ", ".join(schema.TABLES[table].key)
    return store.query(f'SELECT * FROM "{table}" WHERE {source} ORDER BY {key}')  # noqa: S608


def _in_order(frame, table):
    return frame.sort_values(list(schema.TABLES[table].key), kind="stable").reset_index(drop=True)


def _same_cell(a, b):
    if isinstance(a, list | np.ndarray) or isinstance(b, list | np.ndarray):
        return list(a) == list(b)
    if pd.isna(a) or pd.isna(b):
        return (pd.isna(a) or a == "") and (pd.isna(b) or b == "")
    return a == b or str(a) == str(b)


def _assert_equal(got, expected, table):
    got = _in_order(got, table)
    assert list(got.columns) == list(expected.columns)
    assert len(got) == len(expected)
    for column in expected.columns:
        kind = schema.TABLES[table].column(column).type
        left = got[column].astype(np.float32) if kind == "FLOAT" else got[column]
        for a, b in zip(left, expected[column], strict=True):
            assert _same_cell(a, b), (column, a, b)


@pytest.mark.parametrize("table", TABLES)
def test_csv_reads_back_equal_with_plain_pandas(store, tmp_path, table):
    path = export_table(store, FCVR, table, "csv", tmp_path / "t.csv")
    got = pd.read_csv(path, keep_default_na=False, na_values=[""])
    for column in schema.TABLES[table].columns:
        if column.type.endswith("[]"):
            got[column.name] = [None if pd.isna(cell) else json.loads(cell) for cell in got[column.name]]
    _assert_equal(got, _expected(store, table), table)


def test_csv_is_marked_as_utf8_for_excel_and_read_back_by_what_reads_csv(store, tmp_path):
    path = export_table(store, FCVR, "predictions", "csv", tmp_path / "t.csv")
    content = path.read_bytes()
    assert content.startswith(b"\xef\xbb\xbfrun_id,")
    assert content.count(b"\xef\xbb\xbf") == 1
    expected = [column.name for column in schema.TABLES["predictions"].columns]
    assert list(pd.read_csv(path).columns) == expected
    assert duckdb.read_csv(str(path)).columns == expected
    assert pa_csv.read_csv(path).column_names == expected


@pytest.mark.parametrize("table", TABLES)
def test_parquet_has_the_schemas_types_and_the_card(store, tmp_path, table):
    path = export_table(store, FCVR, table, "parquet", tmp_path / "t.parquet")
    _assert_equal(pd.read_parquet(path), _expected(store, table), table)
    card = json.loads(pq.read_metadata(path).metadata[b"vmoer.card"])
    assert card["runs"][0]["run_id"] == FCVR
    assert card["runs"][0]["card"]["spec"]["synthetic"] is True
    types = duckdb.sql(f"DESCRIBE SELECT * FROM '{path}'").df().column_type.tolist()  # noqa: S608
    assert types == [column.type for column in schema.TABLES[table].columns]


@pytest.mark.parametrize("table", TABLES)
def test_json_is_strict_json_with_the_card_on_top(store, tmp_path, table):
    path = export_table(store, FCVR, table, "json", tmp_path / "t.json")

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert list(content) == ["card", "rows"]
    assert content["card"]["synthetic"] is True
    _assert_equal(pd.DataFrame(content["rows"]), _expected(store, table), table)


@pytest.mark.parametrize("table", TABLES)
def test_latex_has_one_line_per_row_and_one_cell_per_column(store, tmp_path, table):
    text = export_table(store, FCVR, table, "latex", tmp_path / "t.tex").read_text(encoding="utf-8")
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == len(_expected(store, table))
    for line in body:
        assert line.replace("\\&", "").count(" & ") == len(schema.TABLES[table].columns) - 1
        assert line.endswith(" \\\\")


def test_duckdb_is_one_file_that_needs_nothing_else(home, tmp_path):
    with open_store(home) as store:
        path = export_table(store, FCVR, None, "duckdb", tmp_path / "all.duckdb")
        expected = {table: _expected(store, table) for table in TABLES}
    with duckdb.connect(str(path), read_only=True) as connection:
        for table in TABLES:
            _assert_equal(connection.execute(f'SELECT * FROM "{table}"').df(), expected[table], table)  # noqa: S608
        card = json.loads(connection.execute("SELECT card FROM card").fetchall()[0][0])
    assert set(card["tables"]) == set(TABLES)
    assert not list(tmp_path.glob("*.wal"))


HOSTILE = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "''-x",
    '"=1"',
    'a","=1',
    "plain",
    "it's",
    "a\nb",
    "a;=1",
    "",
    "−1",
    "😀",
    "\\input{/etc/passwd}",
    "\\write18{rm}",
    "50%",
    "a & b_c^d~e#f$g{h}",
    "</script><b>",
    "nul\x00l",
    "\x1b[31m",
]


def _with_prompts(home, texts):
    """The run's ``examples`` shard replaced by one whose prompts are ``texts``."""
    for path in list_shards(home, "examples", FCVR):
        path.unlink()
    n = len(texts)
    rows = {
        "dataset": "d",
        "example_id": [f"e{i:05d}" for i in range(n)],
        "role": "near-ood",
        "text_sha256": "0",
        "prompt": texts,
        "choices": [[text, "=2"] for text in texts],
        "answer_index": 0,
        "n_tokens": 1,
    }
    write_shard(home, "examples", FCVR, "hostile", rows)
    seal(home, FCVR)
    publish(home)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(more=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=20))
def test_no_csv_cell_begins_like_a_formula_and_every_text_can_be_restored(home, tmp_path, more):
    texts = HOSTILE + more
    _with_prompts(home, texts)
    with open_store(home) as store:
        path = export_table(store, FCVR, "examples", "csv", tmp_path / "t.csv")
    import csv

    with path.open(newline="", encoding="utf-8-sig") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(texts)
    for row, text in zip(rows, texts, strict=True):
        cell = row["prompt"]
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
        assert cell.lstrip("'")[:1] in list("=+-@\t\r\n") or cell == text
        assert (cell[1:] if cell != text else cell) == text
        assert json.loads(row["choices"]) == [text, "=2"]


def test_negative_numbers_stay_numbers(store, tmp_path):
    path = export_table(store, FCVR, "layer_leverage", "csv", tmp_path / "t.csv")
    frame = pd.read_csv(path)
    assert frame.layer.min() == -1
    assert (frame.accuracy_change < 0).any()


def test_latex_cannot_run_a_command(home, tmp_path):
    _with_prompts(home, HOSTILE)
    with open_store(home) as store:
        text = export_table(store, FCVR, "examples", "latex", tmp_path / "t.tex").read_text(encoding="utf-8")
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0]
    assert "\\input" not in body
    assert "\\write18" not in body
    assert "50\\%" in body
    assert "\x1b" not in body
    assert len(body.splitlines()) == len(HOSTILE)


def test_json_and_parquet_keep_hostile_text_as_it_is(home, tmp_path):
    _with_prompts(home, HOSTILE)
    with open_store(home) as store:
        rows = json.loads(export_table(store, FCVR, "examples", "json", tmp_path / "t.json").read_text())["rows"]
        frame = pd.read_parquet(export_table(store, FCVR, "examples", "parquet", tmp_path / "t.parquet"))
    assert [row["prompt"] for row in rows] == HOSTILE
    assert frame.prompt.tolist() == HOSTILE


def test_a_card_with_quotes_and_newlines_stays_inside_the_metadata(home, tmp_path):
    manifest = read_manifest(home, FCVR)
    hostile = {"note": "it's }'; \"quoted\"\n\\end{document} 😀"}
    write_manifest(home, replace(manifest, card=hostile))
    publish(home)
    with open_store(home) as store:
        parquet = export_table(store, FCVR, "metrics", "parquet", tmp_path / "t.parquet")
        latex = export_table(store, FCVR, "metrics", "latex", tmp_path / "t.tex").read_text()
    assert json.loads(pq.read_metadata(parquet).metadata[b"vmoer.card"])["runs"][0]["card"] == hostile
    assert latex.splitlines()[2].startswith("\\begin{tabular}")


def test_the_card_can_lie_beside_a_plain_csv(store, tmp_path):
    path = export_table(store, FCVR, "metrics", "csv", tmp_path / "t.csv", card=True)
    assert path.read_text(encoding="utf-8-sig").startswith("run_id,")
    assert json.loads((tmp_path / "t.csv.card.json").read_text())["runs"][0]["run_id"] == FCVR


def test_several_runs_in_one_file(store, tmp_path):
    path = export_table(store, None, "metrics", "parquet", tmp_path / "t.parquet")
    assert len(set(pd.read_parquet(path).run_id)) == 2


def test_what_is_not_there_is_named(store, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(NotFoundError, match="no run 'unknown'"):
        export_table(store, "unknown", "metrics", "csv", out)
    with pytest.raises(NotFoundError, match="no table 'nope'"):
        export_table(store, FCVR, "nope", "csv", out)
    with pytest.raises(NotFoundError, match="no export format 'xlsx'"):
        export_table(store, FCVR, "metrics", "xlsx", out)
    with pytest.raises(NotFoundError, match="name the table"):
        export_table(store, FCVR, None, "csv", out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_shard_stops_the_export_and_leaves_the_old_file(home, tmp_path, format):
    path = list_shards(home, "routing", FCVR)[0]
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    (tmp_path / "out").write_text("old")
    with open_store(home) as store, pytest.raises(CorruptShardError, match=path.name):
        export_table(store, FCVR, "routing", format, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "out"]


def test_an_output_that_cannot_be_written_is_one_sentence(store, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "folder", tmp_path / "file" / "below.csv"):
        with pytest.raises(StoreError, match="cannot write"):
            export_table(store, FCVR, "metrics", "csv", target)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_a_killed_export_leaves_the_old_file(home, tmp_path, repository):
    out = tmp_path / "out.csv"
    out.write_text("old")
    script = (
        "import os, signal\nfrom store import files\n"
        "files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from store.export import export_table\nfrom store.reader import open_store\n"
        f"export_table(open_store({str(home)!r}), {FCVR!r}, 'metrics', 'csv', {str(out)!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, env=dict(os.environ))
    assert done.returncode == -9
    assert out.read_text() == "old"


#: exports one run after the other; prints the peak memory of this process (KiB) after each
EXPORT = """
    import re, sys
    from store.export import export_table
    from store.reader import open_store

    with open_store(sys.argv[1]) as store:
        for run_id in sys.argv[3:]:
            export_table(store, run_id, "routing", "csv", sys.argv[2])
            print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads its memory in /proc")
def test_a_long_table_is_exported_piece_by_piece(tmp_path, repository):
    runs = [replace(manifest(f"long.m.none.{number}", 32, 64, 8), status="running") for number in (0, 1)]
    for run, questions in zip(runs, (96, 768), strict=True):
        write_manifest(tmp_path / "data", run)
        rows = questions * 40 * 32
        chosen = np.tile(np.arange(8, dtype=np.uint16), (rows, 1))
        facts = {
            "dataset": "long",
            "example_id": np.repeat(np.array([f"q{number}" for number in range(questions)], dtype=object), 40 * 32),
            "position": np.tile(np.repeat(np.arange(40), 32), questions),
            "layer": np.tile(np.arange(32), questions * 40),
            "expert_index": chosen,
            "gate_weight": np.random.default_rng(0).dirichlet(np.ones(8), rows).astype(np.float32),
            "base_expert_index": chosen,
            "overlap": np.full(rows, 8),
            "top_k_margin": np.zeros(rows),
            "routing_entropy": np.ones(rows),
        }
        missing = dict.fromkeys(set(schema.TABLES["routing"].column_names) - {*facts, "run_id"})
        write_shard(tmp_path / "data", "routing", run.run_id, "all", facts | missing)
        seal(tmp_path / "data", run.run_id, status="finished")
    publish(tmp_path / "data")
    output = tmp_path / "out.csv"
    command = [sys.executable, "-c", textwrap.dedent(EXPORT), tmp_path / "data", output, *(run.run_id for run in runs)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    short, long = (int(line) * 1024 for line in done.stdout.split())
    with output.open("rb") as lines:
        assert sum(1 for _ in lines) == 768 * 40 * 32 + 1
    assert long - short < output.stat().st_size / 3, "the memory grows with the table"
