"""Sizes, removing runs, reclaiming room: readers at work keep what they read until the grace period is over."""

import os
import threading
import time

import pytest

from store import layout, queries
from store.compact import compact
from store.errors import NotFoundError, StoreBusyError
from store.export import export_table
from store.locks import maintenance_lock
from store.publish import current_number, generations, publish
from store.reader import open_store
from store.retention import reclaimable, remove_runs, run_sizes
from store.shards import list_shards
from store.verify import verify
from tests.store.conftest import DET, FCVR

HOUR = 3600.0


def _folder_bytes(home):
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())


def _age(home, seconds):
    """Everything was written ``seconds`` ago."""
    for path in home.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - seconds,) * 2)


def test_the_size_of_a_run_is_what_its_files_hold(home):
    sizes = run_sizes(home)
    assert set(sizes) == {DET, FCVR}
    for run_id, size in sizes.items():
        shards = list((home / "facts").glob(f"*/run_id={run_id}/*"))
        assert size == sum(path.stat().st_size for path in [*shards, layout.manifest_path(home, run_id)])
    held = _folder_bytes(home / "facts") + _folder_bytes(home / "runs")
    assert sum(sizes.values()) == held


def test_a_removed_run_is_gone_for_new_readers_and_stays_for_open_ones(home):
    with open_store(home) as old:
        removed = remove_runs(home, [FCVR])
        assert removed.runs == 1
        assert removed.bytes_freed == 0
        assert removed.bytes_later > 0
        assert len(queries.token_routing(old, FCVR, "synthetic-id", "synthetic-id-0000")) > 0
        assert len(queries.layer_overlap(old, DET, FCVR)) > 0
        with open_store(home) as new:
            assert queries.run(new, FCVR) is None
            assert queries.metrics(new, [FCVR]).empty
            with pytest.raises(NotFoundError, match="there is no run"):
                export_table(new, FCVR, "routing", "csv", home / "out.csv")
    assert list_shards(home, "routing", FCVR)


def test_a_run_removed_while_it_is_exported_is_exported_whole(home, tmp_path):
    with open_store(home) as store:
        export_table(store, FCVR, "routing", "csv", tmp_path / "before.csv")
        remove_runs(home, [FCVR])
        export_table(store, FCVR, "routing", "csv", tmp_path / "after.csv")
    assert (tmp_path / "after.csv").read_bytes() == (tmp_path / "before.csv").read_bytes()


def test_room_is_reclaimed_once_the_grace_period_is_over(home):
    sizes = run_sizes(home)
    removed = remove_runs(home, [FCVR])
    assert compact(home).bytes_freed == 0, "readers of the last generation may still be at work"
    assert list_shards(home, "routing", FCVR)
    before = _folder_bytes(home)
    expected = reclaimable(home)
    assert expected >= removed.bytes_later - layout.manifest_path(home, DET).stat().st_size
    _age(home, HOUR)
    done = compact(home)
    assert done.bytes_freed == expected
    assert _folder_bytes(home) == before - expected
    assert not list((home / "facts").glob(f"*/run_id={FCVR}"))
    assert generations(home) == [current_number(home)]
    assert run_sizes(home)[DET] < sum(sizes.values())
    assert verify(home) == []
    assert reclaimable(home) == 0


def test_a_clock_that_was_set_back_frees_nothing_too_early(home):
    remove_runs(home, [FCVR])
    _age(home, -HOUR)
    assert compact(home).removed == 0
    assert list_shards(home, "routing", FCVR)
    assert {1, 2} <= set(generations(home))


def test_an_unknown_run_is_refused_before_anything_is_removed(home):
    with pytest.raises(NotFoundError, match="there is no run 'nobody'"):
        remove_runs(home, [FCVR, "nobody"])
    with open_store(home) as store:
        assert queries.run(store, FCVR) is not None
    assert verify(home) == []


def test_removing_waits_for_compacting(home):
    with maintenance_lock(home), pytest.raises(StoreBusyError, match="compacting"), maintenance_lock(home, timeout=0.1):
        pass
    entered = threading.Event()

    def hold():
        with maintenance_lock(home):
            entered.set()
            time.sleep(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait()
    remove_runs(home, [FCVR])
    holder.join()
    assert verify(home, DET) == []


def test_shards_of_an_unfinished_run_are_never_reclaimed(home):
    from dataclasses import replace

    from store.catalog import read_manifest, write_manifest

    write_manifest(home, replace(read_manifest(home, FCVR), status="running", shards=None))
    publish(home)
    _age(home, HOUR)
    compact(home)
    assert list_shards(home, "routing", FCVR)
    assert verify(home) == []
