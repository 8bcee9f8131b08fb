"""Polls of the queues, of which those that would find nothing are left out.

DBOS reads a queue's configuration and takes the lock of the job database at every poll, ten times a second for each
queue of a worker. Here one look for all queues says which have a job that waits; only these are polled.
"""

from __future__ import annotations

import threading
from typing import Any

from dbos import DBOS, Queue, _queue, _workflow_commands
from sqlalchemy import ColumnClause, literal_column, select

_SWEEP_SECONDS = 5.0

_polling = _queue.queue_worker_thread


class _NextPoll(threading.Event):
    """Stands for the event that ends a queue's thread; is set when the queue is to be polled or its thread to end."""

    def __init__(self, ended: threading.Event) -> None:
        super().__init__()
        self._ended = ended

    def is_set(self) -> bool:
        """Whether the thread is to end."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """True when the thread is to end, False when it is to poll, however much later than ``timeout`` that is."""
        super().wait()
        self.clear()
        return self.is_set()


class QueuePolls:
    """Looks at the job database for all queues of a process, and has those polled that need it.

    To be made before DBOS is launched in the process; ``look_on`` runs in a thread of its own from then on.
    """

    def __init__(self) -> None:
        self._queues: dict[str, _NextPoll] = {}
        _queue.queue_worker_thread = self._serve
        # what is swept are jobs over their time limit, which is hours
        _workflow_commands._BACKGROUND_JOBS_INTERVAL_SEC = _SWEEP_SECONDS

    def _serve(self, stop_event: threading.Event, dbos: DBOS, queue: Queue) -> None:
        self._queues[queue.name] = _NextPoll(stop_event)
        _polling(self._queues[queue.name], dbos, queue)

    def look_on(self, dbos: DBOS, seconds: float) -> None:
        """Look every ``seconds`` until DBOS ends, then let the threads of the queues see that."""
        look = _Look(dbos._sys_db)
        ended = dbos.background_thread_stop_events[-1]  # set after those of the queues
        while not ended.wait(seconds):
            try:
                waiting = look.queues()
            except Exception:  # the driver's own kinds; DBOS meets the same and deals with it
                waiting = set(self._queues)
            for name in waiting & self._queues.keys():
                self._queues[name].set()
        for queue in list(self._queues.values()):
            queue.set()


class _Look:
    """Which queues have a job that waits: as text and on a connection that is kept, which saves most of the cost."""

    def __init__(self, database: Any) -> None:
        jobs = database.tables.workflow_status.c
        # both conditions, written out: else SQLite does not see that its index of unfinished jobs holds the answer
        unfinished: list[ColumnClause[str]] = [literal_column(f"'{status}'") for status in ("ENQUEUED", "PENDING")]
        query = select(jobs.queue_name).distinct().where(jobs.status == unfinished[0], jobs.status.in_(unfinished))
        self._engine = database.engine
        schema = self._engine.get_execution_options()["schema_translate_map"]
        self._query = str(query.compile(self._engine, schema_translate_map=schema, render_schema_translate=True))
        self._connection: Any = None

    def queues(self) -> set[str]:
        """The names of the queues; raises whatever the driver raises, and connects anew the next time."""
        connection = self._connection or self._engine.raw_connection()
        self._connection = None
        cursor = connection.cursor()
        cursor.execute(self._query)
        found = {name for (name,) in cursor.fetchall()}
        connection.rollback()  # a server is not to wait for the end of this transaction
        self._connection = connection
        return found
