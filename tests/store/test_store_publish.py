# ruff: noqa: S608 — table names come from the schema
"""Publishing and reading: readers always see one whole generation, whatever happens to publishers and shards."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import duckdb
import pandas as pd
import pytest

from store import engine, layout, queries, schema
from store import publish as publishing
from store.catalog import delete_run, read_manifest, write_manifest
from store.errors import (
    CorruptShardError,
    CorruptStoreError,
    MissingStoreError,
    NewerSchemaError,
    PublisherBusyError,
    StoreError,
)
from store.publish import current_number, generations, publish
from store.reader import open_store
from store.shards import list_shards, write_shard
from tests.store.conftest import DET, FCVR, SMALL
from tests.store.factory import EXPERIMENT, make_store


def _all_rows(home):
    with open_store(home) as store:
        return {
            table.name: store.query(f'SELECT * FROM "{table.name}" ORDER BY {engine.names(table.key)}')
            for table in schema.tables()
        }


def _assert_same(left, right):
    for name in left:
        pd.testing.assert_frame_equal(left[name], right[name])


def test_a_generation_holds_every_table_with_the_schemas_columns_and_types(store):
    for table in schema.tables():
        described = store.query(f'DESCRIBE SELECT * FROM "{table.name}"')
        assert described["column_name"].tolist() == list(table.column_names)
        assert described["column_type"].tolist() == [column.type for column in table.columns]
        assert store.query(f'SELECT count(*) AS n FROM "{table.name}"').n[0] > 0, table.name
    assert store.problems().empty


def test_derived_tables_equal_a_recount_in_numpy(store):
    facts = store.query("SELECT * FROM routing")
    stats = store.query("SELECT * FROM layer_stats").set_index(["run_id", "dataset", "layer"])
    load = store.query("SELECT * FROM expert_load").set_index(["run_id", "dataset", "layer", "expert_index"])
    for key, rows in facts.groupby(["run_id", "dataset", "layer"]):
        expected = stats.loc[key]
        shared = [len(set(a) & set(b)) for a, b in zip(rows.expert_index, rows.base_expert_index, strict=True)]
        assert expected.n == len(rows)
        assert expected.sum_overlap == sum(shared)
        assert expected.n_changed == sum(s < 2 for s in shared)
        assert expected.sum_jaccard == pytest.approx(sum(s / (4 - s) for s in shared))
        assert expected.sum_entropy_sq == pytest.approx((rows.routing_entropy.astype(float) ** 2).sum())
        variance = rows.logit_variance.dropna().astype(float)
        assert expected.n_variance == len(variance)
        assert expected.sum_variance == pytest.approx(variance.sum())
        for expert in range(SMALL["experts"]):
            used = [(e == expert) for e in rows.expert_index]
            one = load.loc[(*key, expert)]
            assert one.n_selected == sum(mask.any() for mask in used)
            mass = sum(float(g[mask].sum()) for g, mask in zip(rows.gate_weight, used, strict=True))
            assert one.gate_mass == pytest.approx(mass)
            assert one.n_tokens == len(rows)


def test_copied_rows_equal_rows_made_anew(home):
    before = _all_rows(home)
    publish(home)
    _assert_same(before, _all_rows(home))
    shutil.rmtree(layout.generations_folder(home))
    layout.current_path(home).unlink()
    publish(home)
    _assert_same(before, _all_rows(home))


def test_the_data_folder_can_be_moved_and_the_working_directory_does_not_matter(home, tmp_path, monkeypatch):
    before = _all_rows(home)
    moved = tmp_path / "it's moved"
    shutil.move(home, moved)
    # Facts of the same relative name in the working directory must not be taken for the store's.
    monkeypatch.chdir(tmp_path)
    _assert_same(before, _all_rows("it's moved"))
    publish(moved)
    _assert_same(before, _all_rows(moved))


def test_an_open_store_keeps_its_generation(home):
    with open_store(home) as old:
        delete_run(home, FCVR)
        publish(home)
        assert queries.run(old, FCVR) is not None
        assert len(queries.token_routing(old, FCVR, "synthetic-id", "synthetic-id-0000")) > 0
        with open_store(home) as new:
            assert new.generation == old.generation + 1
            assert queries.run(new, FCVR) is None
            assert new.query("SELECT DISTINCT run_id FROM routing").run_id.tolist() == [DET]


def test_running_and_failed_runs_show_what_they_have(home):
    running = replace(
        read_manifest(home, FCVR), run_id="m.running.none.0", status="running", ended_at=None, shards=None
    )
    write_manifest(home, running)
    write_manifest(home, replace(running, run_id="m.failed.none.0", status="failed", error="out of memory"))
    publish(home)
    step = {"layer": -1, "quantity": "loss"}
    with open_store(home) as store:
        assert queries.run(store, running.run_id).status == "running"
        assert queries.run(store, "m.failed.none.0").error == "out of memory"
        assert queries.training_log(store, running.run_id).empty
        assert queries.token_routing(store, running.run_id, "synthetic-id", "x").empty
    write_shard(home, "training_log", running.run_id, "a", {"step": [1], "value": [2.0], **step})
    publish(home)
    write_shard(home, "training_log", running.run_id, "b", {"step": [2], "value": [1.0], **step})
    publish(home)
    with open_store(home) as store:
        assert queries.training_log(store, running.run_id).value.tolist() == [2.0, 1.0]


def test_an_empty_store_has_every_table_and_no_rows(tmp_path):
    with pytest.raises(MissingStoreError, match="run `vmoer demo`"):
        open_store(tmp_path)
    with pytest.raises(MissingStoreError, match="run `vmoer demo`"):
        open_store(tmp_path / "not there")
    publish(tmp_path)
    with open_store(tmp_path) as store:
        for table in schema.tables():
            assert store.query(f'SELECT * FROM "{table.name}"').empty
        assert queries.runs(store).empty
        assert queries.layer_overlap(store, "a", "b").empty


def test_one_store_serves_many_threads(store):
    expected = queries.layer_overlap(store, DET, FCVR)
    results: list[pd.DataFrame] = []
    threads = [
        threading.Thread(target=lambda: results.append(queries.layer_overlap(store, DET, FCVR))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for result in results:
        pd.testing.assert_frame_equal(result, expected)


def test_killed_publishers_leave_a_readable_store(home, repository):
    before = _all_rows(home)
    script = textwrap.dedent(f"""
        from store.publish import publish
        print("ready", flush=True)
        while True:
            publish({str(home)!r})
    """)
    for round_ in range(5):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=repository, stdout=subprocess.PIPE)
        with process:
            process.stdout.readline()
            time.sleep(0.03 + 0.07 * round_)
            os.kill(process.pid, signal.SIGKILL)
        _assert_same(before, _all_rows(home))
        number = publish(home)
        assert current_number(home) == number
        assert not list(layout.generations_folder(home).glob(".*.tmp*"))
    _assert_same(before, _all_rows(home))


@pytest.mark.parametrize("step", ["build", "generation", "pointer"])
def test_a_publisher_that_dies_between_two_steps_changes_nothing(home, monkeypatch, step):
    before, number = _all_rows(home), current_number(home)

    def die(*_):
        raise KeyboardInterrupt

    if step == "build":
        monkeypatch.setattr(publishing, "_copy_runs", die)
    elif step == "generation":
        monkeypatch.setattr(publishing.files, "sync_file", die)
    else:
        monkeypatch.setattr(publishing.files, "write_text", die)
    with pytest.raises(KeyboardInterrupt):
        publish(home)
    monkeypatch.undo()
    assert current_number(home) == number
    _assert_same(before, _all_rows(home))
    assert publish(home) > number


def test_a_second_publisher_waits_and_then_says_so(home):
    with (
        publishing._only_publisher(home, 1),
        pytest.raises(PublisherBusyError, match="another process is publishing"),
    ):
        publish(home, timeout=0.1)
    publish(home, timeout=0.1)


def test_old_generations_go_but_not_the_recent_ones(home, monkeypatch):
    for _ in range(4):
        publish(home)
    assert len(generations(home)) == 5
    monkeypatch.setattr(publishing, "KEEP_SECONDS", 0.0)
    number = publish(home)
    assert generations(home) == [number - 2, number - 1, number]


def _damage(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "removed":
        path.unlink()
    else:
        path.write_bytes(b"not a Parquet file at all" * 40)


@pytest.mark.parametrize("how", ["truncated", "emptied", "removed", "replaced"])
def test_a_damaged_fact_shard_is_named_and_summaries_still_work(home, how):
    path = list_shards(home, "routing", FCVR)[0]
    _damage(path, how)
    for _ in range(2):  # as published before the damage, and published again after it
        with open_store(home) as store:
            for query in (queries.layer_stats, queries.metrics, queries.runs):
                assert FCVR in query(store).run_id.tolist()
            with pytest.raises(CorruptShardError, match=path.name):
                store.query("SELECT count(*) FROM routing")
            with pytest.raises(CorruptShardError, match=path.name):
                queries.layer_overlap(store, DET, FCVR)
            assert len(queries.token_routing(store, DET, "synthetic-id", "synthetic-id-0000")) > 0
        publish(home)


def test_a_run_damaged_before_it_was_ever_published_does_not_stop_the_others(home):
    shutil.rmtree(layout.generations_folder(home))
    layout.current_path(home).unlink()
    path = list_shards(home, "metrics", FCVR)[0]
    content = path.read_bytes()
    _damage(path, "truncated")
    publish(home)
    with open_store(home) as store:
        assert store.query("SELECT DISTINCT run_id FROM metrics").run_id.tolist() == [DET]
        problems = store.problems()
        assert problems.run_id.tolist() == [FCVR]
        assert path.name in problems.sentence[0]
        assert not queries.predictions(store, FCVR).empty
    path.write_bytes(content)
    publish(home)
    with open_store(home) as store:
        assert store.problems().empty
        assert FCVR in store.query("SELECT DISTINCT run_id FROM metrics").run_id.tolist()


@pytest.mark.parametrize("how", ["truncated", "emptied", "removed", "replaced"])
def test_a_damaged_generation_is_one_sentence_and_publishing_heals_it(home, how):
    before = _all_rows(home)
    path = layout.generation_path(home, current_number(home))
    _damage(path, how)
    with pytest.raises(CorruptStoreError, match=r"vmoer-\d+.duckdb|generation \d+"):
        _all_rows(home)
    publish(home)
    _assert_same(before, _all_rows(home))


def test_a_flipped_bit_in_a_generation_is_one_sentence(home):
    path = layout.generation_path(home, current_number(home))
    content = bytearray(path.read_bytes())
    for offset in range(3 * 4096, len(content), 997):
        content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        _all_rows(home)


@pytest.mark.parametrize("text", ["", "vmoer-0.duckdb", "../../etc/passwd", "vmoer-1.duckdb/x", "\x00"])
def test_current_names_a_generation_or_is_refused(home, text):
    layout.current_path(home).write_text(text)
    with pytest.raises(CorruptStoreError, match="CURRENT"):
        open_store(home)
    publish(home)
    open_store(home).close()


def test_a_generation_of_a_newer_version_is_refused_and_not_replaced(home):
    number = current_number(home)
    with duckdb.connect(str(layout.generation_path(home, number))) as connection:
        connection.execute("UPDATE store_meta SET schema_version = schema_version + 1")
    for act in (open_store, publish):
        with pytest.raises(NewerSchemaError, match="upgrade VMoER"):
            act(home)
    assert current_number(home) == number


def test_a_reader_follows_current_when_its_generation_was_pruned(home, monkeypatch):
    from store import reader

    numbers = iter([1, 2])
    publish(home)
    layout.generation_path(home, 1).unlink()
    monkeypatch.setattr(reader, "current_number", lambda _: next(numbers))
    with open_store(home) as store:
        assert store.generation == 2


def test_a_query_cannot_read_or_write_outside_the_facts(home, tmp_path):
    with open_store(home) as store:
        for sql in (
            f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
            "SELECT * FROM read_text('/etc/hostname')",
            f"ATTACH '{tmp_path}/new.duckdb' AS new",
            "SET enable_external_access = true",
            "DELETE FROM generation.runs",
        ):
            with pytest.raises(StoreError, match="the query failed"):
                store.query(sql)
    assert not (tmp_path / "out.csv").exists()


def test_values_are_bound_and_not_read_as_sql(store):
    hostile = "x' OR '1'='1"
    assert queries.metrics(store, [hostile]).empty
    assert queries.metrics(store, dataset=hostile).empty
    assert queries.token_routing(store, hostile, hostile, hostile).empty
    assert queries.run(store, hostile) is None


def test_a_closed_store_says_so(home):
    store = open_store(home)
    store.close()
    with pytest.raises(StoreError, match="has been closed"):
        store.query("SELECT 1")


def test_the_factory_marks_its_runs_synthetic(tmp_path):
    ids = make_store(tmp_path, **SMALL)
    with open_store(tmp_path) as store:
        runs = queries.runs(store)
        assert set(runs.run_id) == set(ids)
        assert runs.synthetic.all()
        assert set(runs.control) == {"none", "untrained", "non-routing-noise"}
        assert queries.datasets(store, EXPERIMENT).role.tolist() == ["in-distribution", "near-ood", "far-ood"]
