"""A crowd on one data folder: twenty readers, two publishers, a run that comes and goes; and hundreds of page loads."""

import json
import os
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest

from store import queries
from store.publish import current_number, generations
from store.reader import open_store
from store.retention import remove_runs
from store.verify import verify
from tests.store.conftest import DET, FCVR

PROCESSES, READERS, ROUNDS = 2, 10, 3
#: a leak of one handle a time shows after the first few
LOADS, QUESTIONS = 150, 500

#: ten readers in one process, until the file named stop is there; prints how often each one read, and what went wrong
READ = """
    import json, sys, threading, time
    from pathlib import Path
    from store.reader import open_store

    home, stop, counts, errors = sys.argv[1], Path(sys.argv[2]), [0] * int(sys.argv[3]), []

    def read(number):
        try:
            while not counts[number] or not stop.exists():
                with open_store(home, threads=1) as store:
                    runs = set(store.query("SELECT run_id FROM runs").run_id)
                    for table in ("metrics", "expert_load", "routing"):
                        found = set(store.query(f"SELECT DISTINCT run_id FROM {table}").run_id)
                        assert found == runs, (table, store.generation, found, runs)
                counts[number] += 1
                time.sleep(0.5)
        except BaseException as error:
            errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps([counts, errors]))
"""
#: publishes twice a round beside another publisher; with a run's name, without and again with that run
PUBLISH = """
    import sys
    from store.catalog import delete_run, read_manifest, write_manifest
    from store.publish import publish

    home, rounds, run_id = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    manifest = read_manifest(home, run_id) if run_id else None
    for _ in range(rounds):
        if manifest:
            delete_run(home, run_id)
        print(publish(home, timeout=300))
        if manifest:
            write_manifest(home, manifest)
        print(publish(home, timeout=300))
"""


def _start(script, repository, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_twenty_readers_beside_two_publishers_see_whole_generations(home, tmp_path, repository):
    before, stop = current_number(home), tmp_path / "stop"
    readers = [_start(READ, repository, home, stop, READERS) for _ in range(PROCESSES)]
    publishers = [_start(PUBLISH, repository, home, ROUNDS, run_id) for run_id in ("", FCVR)]
    published = []
    for publisher in publishers:
        out, error = publisher.communicate(timeout=300)
        assert publisher.returncode == 0, error
        published += [int(number) for number in out.split()]
    last = before + 2 * 2 * ROUNDS
    assert sorted(published) == list(range(before + 1, last + 1)), "a generation was made twice or left out"
    stop.touch()
    counts = []
    for reader in readers:
        out, error = reader.communicate(timeout=300)
        assert reader.returncode == 0, error
        read, errors = json.loads(out)
        assert errors == []
        counts += read
    assert len(counts) == PROCESSES * READERS
    assert sum(counts) > 2 * PROCESSES * READERS, "hardly anybody read while there was publishing"
    assert verify(home) == []
    assert current_number(home) == max(generations(home)) == last


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_page_loads_leak_no_handle_and_no_thread(built):
    def load():
        with open_store(built, threads=1) as store:
            queries.token_routing(store, FCVR, "synthetic-id", "synthetic-id-0000")

    for _ in range(5):
        load()
    handles, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(LOADS):
        load()
    assert len(os.listdir("/proc/self/fd")) <= handles
    assert threading.active_count() == threads


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_one_open_page_asks_five_hundred_times_without_new_handles(store):
    queries.layer_stats(store, DET)
    handles = len(os.listdir("/proc/self/fd"))
    for _ in range(QUESTIONS):
        queries.layer_stats(store, DET)
    assert len(os.listdir("/proc/self/fd")) <= handles


def test_a_run_removed_while_its_page_is_open_is_not_found_on_the_next_load(home):
    with open_store(home) as page:
        remove_runs(home, [FCVR])
        assert not queries.metrics(page, [FCVR]).empty
    with open_store(home) as reloaded:
        assert queries.run(reloaded, FCVR) is None
        assert queries.metrics(reloaded, [FCVR]).empty
        assert queries.layer_overlap(reloaded, DET, FCVR).empty


def test_closing_beside_queries_is_a_sentence_of_the_store(built):
    """A busy connection refuses what another thread asks of it; readers must never see that."""
    stop, refused = threading.Event(), []

    def ask(store):
        while not stop.is_set():
            try:
                queries.runs(store)
            except Exception as error:
                refused.append(error)
                return

    for _ in range(10):
        store = open_store(built)
        readers = [threading.Thread(target=ask, args=(store,)) for _ in range(4)]
        for reader in readers:
            reader.start()
        queries.runs(store)
        store.close()
        for reader in readers:
            reader.join(timeout=30)
    stop.set()
    assert len(refused) == 40, "each reader ends with the closed store"
    assert {str(error) for error in refused} == {"this store has been closed: open it again"}


def test_a_store_nobody_holds_is_closed(built):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    store = open_store(built)
    queries.runs(store)
    reference = weakref.ref(store)
    del store
    assert reference() is None, "no cycle keeps it"
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before
