"""Whose turn it is to use the model: one step at a time, and a waiting reader before the next step of an experiment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock with two doors: :meth:`acquire` for the steps of experiments, :meth:`urgent` for live inspections.

    A step of an experiment takes seconds and there are thousands of them, so an inspection that arrives in the middle
    of a night's work waits for the step in flight and no longer. Not reentrant.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False
        self._urgent = 0

    def acquire(self, timeout: float | None = None) -> bool:
        """Take the turn once nobody has it and no inspection waits; False after ``timeout`` seconds without it."""
        with self._changed:
            got = self._changed.wait_for(lambda: not self._taken and not self._urgent, timeout)
            self._taken = self._taken or got
            return got

    def release(self) -> None:
        """Pass the turn on."""
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """Hold the turn inside the block, before any step that is waiting for it."""
        with self._changed:
            self._urgent += 1
            self._changed.wait_for(lambda: not self._taken)
            self._urgent -= 1
            self._taken = True
        try:
            yield
        finally:
            self.release()

    def __enter__(self) -> Turns:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
