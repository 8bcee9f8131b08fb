"""Verify: every planted fault is named with its run and file; a sound folder gives an empty list."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store import layout, schema, shards
from store.catalog import delete_run, read_manifest, seal, write_manifest
from store.compact import compact
from store.errors import CorruptShardError, MissingStoreError, NewerSchemaError
from store.publish import current_number, publish
from store.reader import open_store
from store.shards import list_shards, write_shard
from store.verify import verify
from tests.store.conftest import DET, FCVR


def _one(problems, kind):
    assert [problem.kind for problem in problems] == [kind], problems
    return problems[0]


def test_a_sound_folder_has_no_problem(built):
    assert verify(built) == []
    assert verify(built, FCVR) == []


def test_a_folder_without_results_says_what_to_run(tmp_path):
    with pytest.raises(MissingStoreError, match="run `vmoer demo`"):
        verify(tmp_path)


@pytest.mark.parametrize("table", ["routing", "predictions"])
@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("truncated", "shard"),
        ("emptied", "shard"),
        ("flipped", "hash"),
        ("another run's", "shard"),
        ("another shard's", "shard"),
        ("missing", "missing-shard"),
        ("extra", "extra-shard"),
        ("rewritten", "row-count"),
    ],
)
def test_each_damage_to_a_sealed_shard_is_named(home, table, how, kind):
    path = list_shards(home, table, FCVR)[0]
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[:-10])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "flipped":
        path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    elif how == "another run's":
        shutil.copy(list_shards(home, table, DET)[0], path)
    elif how == "another shard's":
        others = list_shards(home, table, FCVR)[1:] or list_shards(home, "tokens", FCVR)
        shutil.copy(others[0], path)
    elif how == "missing":
        path.unlink()
    elif how == "extra":
        path = write_shard(home, table, FCVR, "extra", _read(path))
    else:
        doubled = pa.concat_tables([_read(path)] * 2)
        shards._write(path, schema.TABLES[table], doubled, shards._metadata(table, FCVR, path.name))
    problem = _one(verify(home), kind)
    assert problem.run_id == FCVR
    assert problem.path == path.relative_to(home).as_posix()
    assert path.name in problem.sentence
    assert _one(verify(home, FCVR), kind) == problem
    assert verify(home, DET) == []


def _read(path):
    with pq.ParquetFile(path) as shard:
        return shard.read()


def _reseal(home, table, change):
    """Rewrite a run's first shard of ``table`` and seal it: hashes fit, the rows do not."""
    path = list_shards(home, table, FCVR)[0]
    rows = change(_read(path))
    shards._write(path, schema.TABLES[table], rows, shards._metadata(table, FCVR, path.name))
    seal(home, FCVR)
    publish(home)


def _set(rows, column, value):
    index = rows.column_names.index(column)
    values = rows.column(column).to_pylist()
    values[0] = value(values[0])
    return rows.set_column(index, column, pa.array(values, rows.schema.field(column).type))


@pytest.mark.parametrize(
    ("table", "change", "kind", "words"),
    [
        ("routing", lambda rows: rows.slice(1), "routing-rows", "has routing rows for layers"),
        ("routing", lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "routing-rows", "MoE layers are"),
        ("tokens", lambda rows: rows.slice(1), "routing-rows", "position 0"),
        ("tokens", lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "key", "more than one row for dataset="),
        ("routing", lambda rows: _set(rows, "expert_index", lambda _: [1, 1]), "experts", "do not fit together"),
        ("routing", lambda rows: _set(rows, "expert_index", lambda _: [0, 99]), "experts", "do not fit together"),
        ("routing", lambda rows: _set(rows, "overlap", lambda n: (n + 1) % 3), "experts", "do not fit together"),
        ("predictions", lambda rows: _set(rows, "probs", lambda p: [2 * x for x in p]), "predictions", "sum 2"),
        ("predictions", lambda rows: _set(rows, "correct", lambda c: not c), "predictions", "inconsistent"),
        ("metrics", lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "key", "table metrics has more"),
    ],
)
def test_rows_that_contradict_each_other_are_named(home, table, change, kind, words):
    _reseal(home, table, change)
    problem = _one(verify(home), kind)
    assert problem.run_id == FCVR
    assert words in problem.sentence


@pytest.mark.parametrize("table", ["layer_stats", "expert_load", "metrics"])
def test_rows_of_the_generation_that_differ_from_the_shards_are_named_and_repaired(home, table):
    path = layout.generation_path(home, current_number(home))
    column = {"layer_stats": "sum_entropy", "expert_load": "gate_mass", "metrics": "value"}[table]
    with duckdb.connect(str(path)) as connection:
        connection.execute(f'UPDATE "{table}" SET "{column}" = "{column}" + 0.001 WHERE run_id = ?', [FCVR])  # noqa: S608
    problem = _one(verify(home), "summary")
    assert table in problem.sentence
    assert problem.run_id == FCVR
    assert verify(home, repair=True) == []
    assert verify(home) == []


@pytest.mark.parametrize("how", ["missing", "garbage", "no current", "bad current"])
def test_a_lost_generation_is_named_and_repaired(home, how):
    path = layout.generation_path(home, current_number(home))
    if how == "missing":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"garbage" * 1000)
    elif how == "no current":
        layout.current_path(home).unlink()
    else:
        layout.current_path(home).write_text("vmoer-x.duckdb")
    _one(verify(home), "generation" if how in ("missing", "garbage") else "current")
    assert verify(home, repair=True) == []
    with open_store(home) as store:
        assert len(store.query("SELECT * FROM runs")) == 2


def test_an_unpublished_run_is_named_and_repaired(home):
    manifest = read_manifest(home, FCVR)
    delete_run(home, FCVR)
    publish(home)
    write_manifest(home, manifest)
    assert "is not in the published generation" in _one(verify(home), "unpublished").sentence
    assert verify(home, repair=True) == []


def test_a_finished_run_that_was_never_sealed_is_named(home):
    write_manifest(home, replace(read_manifest(home, FCVR), shards=None))
    publish(home)
    assert "never sealed" in _one(verify(home), "unsealed").sentence


def test_a_running_run_is_checked_without_hashes(home):
    running = replace(read_manifest(home, FCVR), shards=None, status="running")
    write_manifest(home, replace(running, run_id="m.just-started.none.0"))
    write_manifest(home, running)
    assert verify(home) == []
    publish(home)
    assert verify(home) == []
    path = list_shards(home, "routing", FCVR)[0]
    content = bytearray(path.read_bytes())
    with pq.ParquetFile(path) as shard:
        column = shard.metadata.row_group(0).column(shard.metadata.num_columns - 6)
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    assert path.name in _one(verify(home), "shard").sentence


def test_a_damaged_manifest_is_named(home):
    layout.manifest_path(home, FCVR).write_text("{")
    kinds = {problem.kind: problem for problem in verify(home)}
    assert set(kinds) == {"manifest"}
    assert FCVR in kinds["manifest"].sentence


def test_a_shard_of_a_newer_version_is_refused_as_such(home, monkeypatch):
    rows = _read(list_shards(home, "metrics", FCVR)[0])
    monkeypatch.setattr(shards, "SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
    path = list_shards(home, "metrics", FCVR)[0]
    shards._write(path, schema.TABLES["metrics"], rows, shards._metadata("metrics", FCVR, path.name))
    monkeypatch.undo()
    with pytest.raises(NewerSchemaError, match="upgrade VMoER"):
        verify(home)


def test_what_killed_writers_left_is_named_and_removed_but_not_a_writer_at_work(home):
    folder = list_shards(home, "routing", FCVR)[0].parent
    old, young = folder / ".part-0.parquet.dead.tmp", folder / ".part-1.parquet.live.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    problem = _one(verify(home), "leftover")
    assert problem.path.endswith(old.name)
    assert verify(home, repair=True) == []
    assert not old.exists()
    assert young.exists()


def test_shards_of_a_deleted_run_are_named_and_compacting_removes_them(home):
    delete_run(home, FCVR)
    publish(home)
    assert verify(home) == [], "readers of an earlier generation may still need them"
    for number in range(1, current_number(home)):
        layout.generation_path(home, number).unlink()
    assert {problem.kind for problem in verify(home)} == {"orphan"}
    assert compact(home, grace=0).removed > 0
    assert not list(layout.facts_folder(home).glob(f"*/run_id={FCVR}"))
    assert verify(home) == []


def test_compacting_keeps_the_rows_and_the_open_readers(home):
    with open_store(home) as old:
        before = {name: old.query(f'SELECT * FROM "{name}"') for name in schema.TABLES if name != "runs"}  # noqa: S608
        done = compact(home)
        assert done.merged > done.written > 0
        assert done.removed == 0
        assert len(list_shards(home, "routing", FCVR)) == 4  # three replaced ones still listed by the old generation
        assert len(old.query("SELECT * FROM routing")) == len(before["routing"])
        assert verify(home) == []
        with open_store(home) as new:
            assert len(new.shards("routing")) == 2
            for name, rows in before.items():
                keys = list(schema.TABLES[name].key)
                after = new.query(f'SELECT * FROM "{name}"')  # noqa: S608
                for column in rows.columns:
                    left = rows.sort_values(keys)[column].tolist()
                    right = after.sort_values(keys)[column].tolist()
                    same = all(_equal(a, b) for a, b in zip(left, right, strict=True))
                    assert same, (name, column)
    assert compact(home, grace=3600).removed == 0
    assert compact(home, grace=0).removed == done.merged + 1  # and the generation that listed them
    assert verify(home) == []


@pytest.fixture
def stepped(home):
    """A run whose training log is in nine shards of ten rows, two of them written before shards named their steps."""
    for number in range(9):
        rows = {"step": range(10 * number, 10 * number + 10), "layer": [0] * 10, "quantity": "loss", "value": 1.0}
        write_shard(home, "training_log", DET, f"train/{number}", rows, steps=() if number in (5, 8) else None)
    seal(home, DET, status="finished")
    publish(home)
    return home


def test_merged_shards_hold_whole_shards_and_say_which(stepped):
    assert compact(stepped, DET, grace=0, rows_per_shard=39).merged >= 9
    entries = read_manifest(stepped, DET).shards["training_log"]
    said = [entry.get("steps") or entry["merged"] for entry in entries]
    assert sorted(said, key=str) == [3, 3, ["train/0", "train/1", "train/2"]]
    for entry in entries:
        path = layout.shard_path(stepped, "training_log", DET, entry["name"])
        steps = _read(path)["step"].to_pylist()
        assert steps == list(range(steps[0], steps[0] + 30))
    assert verify(stepped) == []
    assert compact(stepped, DET, rows_per_shard=39).merged == 0
    compact(stepped, DET, rows_per_shard=1000)
    (entry,) = read_manifest(stepped, DET).shards["training_log"]
    assert (entry["rows"], entry["merged"]) == (90, 9)


def test_a_damaged_merged_shard_is_named_with_the_steps_it_held(stepped):
    compact(stepped, DET, grace=0, rows_per_shard=39)
    entry = next(entry for entry in read_manifest(stepped, DET).shards["training_log"] if "steps" in entry)
    layout.shard_path(stepped, "training_log", DET, entry["name"]).write_bytes(b"")
    assert "it held the rows of 3 steps: train/0, train/1, train/2" in _one(verify(stepped), "shard").sentence


def _equal(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return np.isclose(a, b, rtol=1e-9, equal_nan=True)
    return a is b or np.array_equal(a, b) or (a != a and b != b)


def test_compacting_refuses_a_damaged_shard_and_changes_nothing(home):
    path = list_shards(home, "routing", FCVR)[0]
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    manifest = read_manifest(home, FCVR)
    with pytest.raises(CorruptShardError, match=path.name):
        compact(home, FCVR)
    assert read_manifest(home, FCVR) == manifest


def test_the_store_imports_neither_torch_nor_the_other_packages(repository):
    script = (
        "import sys, store.verify, store.export, store.compact, store.queries\n"
        "bad = {'torch', 'transformers', 'streamlit', 'vmoer', 'pipelines', 'app', 'sklearn'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
