"""A worker without work leaves its queues alone, and takes up a job as soon as one waits."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS
from sqlalchemy import Engine, event

from pipelines.jobs import client as jobs
from pipelines.jobs.database import connect
from pipelines.worker import process, queue_polls
from tests.harness import forks
from tests.pipelines.support import settings

QUEUES = ("device:cpu", "inspection")
LOOKS = 20


@DBOS.workflow(name="answer")
def answer() -> str:
    return threading.current_thread().name


def served(home: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> dict[str, Any]:
    """What the threads of the queues ask of the database during some looks, and what became of a job then."""
    seen: Counter[str] = Counter()
    looks = threading.Semaphore(0)
    look = queue_polls._Look.queues
    ready = threading.Semaphore(0)
    wait = queue_polls._NextPoll.wait

    def waits(self: Any, timeout: float | None = None) -> bool:
        ready.release()
        return wait(self, timeout)

    def counted(self: Any) -> set[str]:
        looks.release()
        if fails:
            raise OSError("the database does not answer")
        return look(self)

    def count(*_: Any) -> None:
        seen[threading.current_thread().name.removeprefix("queue-worker-")] += 1

    monkeypatch.setattr(queue_polls._Look, "queues", counted)
    monkeypatch.setattr(queue_polls._NextPoll, "wait", waits)
    with process._launched(settings(home), "test", QUEUES, 0.01):
        for _ in (*QUEUES, "DBOS's own"):
            ready.acquire()
        event.listen(Engine, "before_cursor_execute", count)
        for _ in range(LOOKS):
            looks.acquire()
        idle = {name: seen[name] for name in QUEUES}
        with connect(settings(home)) as client:
            options: Any = {"queue_name": "inspection", "workflow_name": "answer", "app_version": "1"}
            handle: Any = client.enqueue(options)
            handle.get_result(polling_interval_sec=0.05)
        return {"idle": idle, "then": {name: seen[name] for name in QUEUES}}


@pytest.mark.parametrize("fails", [False, True])
def test_a_queue_is_polled_when_a_job_waits_in_it_or_when_that_cannot_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    found = forks.run(lambda: served(tmp_path, monkeypatch, fails), tmp_path / "log")
    assert found.code == 0, found.output
    idle, then = found.value["idle"], found.value["then"]
    assert then["inspection"] > idle["inspection"], "the job was taken up"
    if fails:
        assert min(idle.values()) >= LOOKS / 2
    else:
        assert then["device:cpu"] == idle["device:cpu"] == idle["inspection"] == 0


def test_the_look_reads_nothing_but_the_index_of_unfinished_jobs(tmp_path: Path) -> None:
    here = settings(tmp_path)
    with connect(here) as client:
        database = client._sys_db
        look = queue_polls._Look(database)
        with database.engine.connect() as connection:
            plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {look._query}").all())
        assert "USING COVERING INDEX" in plan, plan
        options: Any = {"queue_name": "", "workflow_name": "answer", "app_version": jobs.APPLICATION_VERSION}
        for queue in ("one", "two", "two"):
            client.enqueue({**options, "queue_name": queue})
        first: Any = client.list_workflows(queue_name="one")
        assert look.queues() == {"one", "two"}
        client.cancel_workflow(first[0].workflow_id)
        assert look.queues() == {"two"}
