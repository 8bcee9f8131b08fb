"""Shards: what is written is what is read, equal rows give equal bytes, what does not fit is refused by name."""

import math
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import files, layout, schema, shards, typed
from store.errors import CorruptShardError, InvalidDataError, NewerSchemaError, WriteError
from store.shards import write_shard

RUN = "m.fcvr.in-router.0"
_INTEGERS = {"UTINYINT": 8, "USMALLINT": 16, "UINTEGER": 32, "UBIGINT": 64}


def _values(kind):
    if kind.endswith("[]"):
        return st.lists(_values(kind[:-2]), max_size=3)
    if kind in _INTEGERS:
        return st.integers(0, 2 ** _INTEGERS[kind] - 1)
    if kind in ("SMALLINT", "BIGINT"):
        bits = 15 if kind == "SMALLINT" else 63
        return st.integers(-(2**bits), 2**bits - 1)
    return {
        "VARCHAR": st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        "BOOLEAN": st.booleans(),
        "FLOAT": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "DOUBLE": st.floats(allow_nan=False, allow_infinity=False),
    }[kind]


def _rows(table):
    cells = {
        column.name: st.none() | _values(column.type) if column.nullable else _values(column.type)
        for column in table.columns
        if column.name != "run_id"
    }
    return st.lists(st.fixed_dictionaries(cells), min_size=1, max_size=5)


def _as_columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("name", [table.name for table in schema.tables("fact", "result")])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_table_reads_back_as_written(tmp_path, name, data):
    rows = data.draw(_rows(schema.TABLES[name]))
    path = write_shard(tmp_path, name, RUN, "k", _as_columns(rows))
    first = path.read_bytes()
    with pq.ParquetFile(path) as shard:
        back = shard.read()
    assert back.column_names == list(schema.TABLES[name].column_names)
    assert [field.type for field in back.schema] == [typed.arrow_type(c.type) for c in schema.TABLES[name].columns]
    assert back.column("run_id").to_pylist() == [RUN] * len(rows)
    for column in rows[0]:
        assert back.column(column).to_pylist() == [row[column] for row in rows]
    write_shard(tmp_path, name, RUN, "k", back)
    assert path.read_bytes() == first


def _score(n=3, **changes):
    return {
        "dataset": "d",
        "example_id": [f"e{i}" for i in range(n)],
        "role": "near-ood",
        "score": "gate_entropy",
        "position_rule": "prompt_mean",
        "aggregation": "mean_layers",
        "value": np.linspace(0, 1, n),
        **changes,
    }


def _routing(n=4, k=2, **changes):
    index = np.tile(np.arange(k, dtype=np.uint16), (n, 1))
    return {
        "dataset": "d",
        "example_id": "e",
        "position": np.arange(n),
        "layer": 0,
        "expert_index": index,
        "gate_weight": np.full((n, k), 0.5, np.float32),
        "selection_score": None,
        "base_expert_index": index,
        "overlap": k,
        "top_k_margin": np.ones(n, np.float32),
        "routing_entropy": np.ones(n),
        "logit_variance": None,
        "logit_variance_mc": None,
        "temperature": None,
        **changes,
    }


def test_the_form_of_the_input_does_not_change_the_bytes(tmp_path):
    arrays = write_shard(tmp_path, "routing", RUN, "a", _routing()).read_bytes()
    lists = {
        name: value.tolist() if isinstance(value, np.ndarray) else [value] * 4 for name, value in _routing().items()
    }
    assert write_shard(tmp_path, "routing", RUN, "a", lists).read_bytes() == arrays
    strange_codes = pa.DictionaryArray.from_arrays(pa.array([1] * 4), pa.array(["unused", "e"]))
    coded = _routing(example_id=strange_codes, dataset=np.array(["d"] * 4))
    assert write_shard(tmp_path, "routing", RUN, "a", coded).read_bytes() == arrays


def test_masked_values_become_null(tmp_path):
    variance = np.ma.MaskedArray([1.0, np.nan, 3.0, 4.0], [False, True, False, False])
    path = write_shard(tmp_path, "routing", RUN, "a", _routing(logit_variance=variance))
    with pq.ParquetFile(path) as shard:
        assert shard.read().column("logit_variance").to_pylist() == [1.0, None, 3.0, 4.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", ["gate_weight", "routing_entropy", "logit_variance"])
def test_nan_and_infinity_are_refused_naming_table_and_column(tmp_path, bad, column):
    values = np.full((4, 2) if column == "gate_weight" else 4, 1.0)
    values.flat[2] = bad
    with pytest.raises(InvalidDataError, match=f"table routing, column '{column}'"):
        write_shard(tmp_path, "routing", RUN, "a", _routing(**{column: values}))
    assert not list(tmp_path.rglob("part-*"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra": [1, 2, 3]}, "no column 'extra'"),
        ({"value": ["a", "b", "c"]}, "'value' must be DOUBLE"),
        ({"value": [True, False, True]}, "'value' must be DOUBLE"),
        ({"role": [1, 2, 3]}, "'role' must be VARCHAR"),
        ({"value": [1.0, None, 2.0]}, "'value': row 1 is NULL"),
        ({"value": [1.0]}, "'value' has 1 rows"),
        ({"example_id": ["a", "\ud800", "c"]}, "'example_id' must be VARCHAR"),
        ({"run_id": "another"}, "'another' in a shard of run"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, changes, words):
    with pytest.raises(InvalidDataError, match=words):
        write_shard(tmp_path, "ood_scores", RUN, "a", _score(**changes))


def test_a_missing_column_is_named(tmp_path):
    rows = _score()
    del rows["role"]
    with pytest.raises(InvalidDataError, match="needs the column 'role'"):
        write_shard(tmp_path, "ood_scores", RUN, "a", rows)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("layer", -1),
        ("layer", 70_000),
        ("position", np.array([0.0, 1.0, 2.0, 3.0])),
        ("expert_index", np.zeros(4, np.uint16)),
        ("expert_index", np.full((4, 2), -1)),
        ("gate_weight", [[0.5, None]] * 4),
        ("top_k_margin", np.full(4, 1e300)),
    ],
)
def test_values_outside_the_type_are_refused(tmp_path, column, value):
    with pytest.raises(InvalidDataError, match=f"column '{column}'"):
        write_shard(tmp_path, "routing", RUN, "a", _routing(**{column: value}))


def test_counts_above_the_signed_range_are_kept(tmp_path):
    rows = {"step": [1], "layer": [-1], "quantity": "loss", "value": [1.0]}
    with pytest.raises(InvalidDataError, match="column 'step'"):
        write_shard(tmp_path, "training_log", RUN, "a", rows | {"step": [2**63]})
    for value in (2**64 - 1, [2**64 - 1, 0]):
        array = typed._array(value, pa.uint64(), 2)
        assert array.type == pa.uint64()
        assert array[0].as_py() == 2**64 - 1


def test_one_shard_per_key_and_metadata_of_its_own(tmp_path):
    first = write_shard(tmp_path, "ood_scores", RUN, "a", _score(3))
    again = write_shard(tmp_path, "ood_scores", RUN, "a", _score(2))
    other = write_shard(tmp_path, "ood_scores", RUN, "b", _score(2))
    assert first == again != other
    assert shards.list_shards(tmp_path, "ood_scores", RUN) == sorted([first, other])
    assert shards.read_info(first) == shards.ShardInfo(2, schema.SCHEMA_VERSION, "ood_scores", RUN, first.name, ("a",))


def test_a_step_that_no_manifest_could_name_is_left_out(tmp_path):
    assert shards.read_info(write_shard(tmp_path, "ood_scores", RUN, "\ud800", _score())).steps == ()


@pytest.mark.parametrize("steps", ["7", "[" * 100_000, "{", "null"])
def test_steps_that_are_no_list_of_texts_are_damage(tmp_path, steps):
    path = write_shard(tmp_path, "ood_scores", RUN, "a", _score())
    table = schema.TABLES["ood_scores"]
    rows = pq.read_table(path, partitioning=None).cast(typed.arrow_schema(table))
    shards._write(path, table, rows, shards._metadata("ood_scores", RUN, path.name) | {"vmoer.steps": steps})
    with pytest.raises(CorruptShardError, match="is damaged"):
        shards.read_info(path)


def test_a_shard_of_a_newer_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
    path = write_shard(tmp_path, "ood_scores", RUN, "a", _score())
    monkeypatch.undo()
    with pytest.raises(NewerSchemaError, match="upgrade VMoER"):
        shards.read_info(path)


def test_a_failed_write_leaves_the_old_shard_and_no_temporary_file(tmp_path, monkeypatch):
    path = write_shard(tmp_path, "ood_scores", RUN, "a", _score(3))
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync_file", full)
    with pytest.raises(WriteError, match="the disk is full"):
        write_shard(tmp_path, "ood_scores", RUN, "a", _score(2))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_writer_killed_before_the_rename_leaves_nothing_visible(tmp_path, repository):
    script = f"""
        import os, signal
        from store import files, shards
        files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        shards.write_shard({str(tmp_path)!r}, "training_log", {RUN!r}, "a",
            dict(step=[1], layer=[-1], quantity="loss", value=[1.0]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=repository, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    folder = layout.shard_folder(tmp_path, "training_log", RUN)
    assert [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]
    assert shards.list_shards(tmp_path, "training_log", RUN) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_pages_is_found_without_the_hash(tmp_path, position, bit):
    path = write_shard(tmp_path, "ood_scores", RUN, "a", _score(50))
    content = bytearray(path.read_bytes())
    with pq.ParquetFile(path) as shard:
        group = shard.metadata.row_group(0)
        column = group.column(group.num_columns - 1)
        start, size = column.data_page_offset, column.total_compressed_size
    # The last bytes of a column chunk are page content; its header before them has no checksum of its own.
    content[start + size - 1 - int(position * size / 2)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(CorruptShardError, match=path.name):
        shards.check_pages(path)
