"""How far a job has come, told as an event in the job database and to whoever listens in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dbos import DBOS

from pipelines.jobs.client import PROGRESS_EVENT

#: told of every progress change in this process (the foreground progress bar)
LISTENERS: list[Callable[[str, dict[str, Any]], None]] = []


class Progress:
    """Progress of a job as an event in the job database; the rate counts computed units only, not skipped ones."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._started = time.monotonic()
        self._computed = 0
        self._told = 0.0
        self.state: dict[str, Any] = {
            "stage": "",
            "message": "",
            "done": 0,
            "total": 0,
            "stage_done": 0,
            "stage_total": 0,
            "rate": None,
            "eta_seconds": None,
            "run_ids": [],
            "started_at_ms": int(time.time() * 1000),
        }

    def begin(self, run_ids: list[str], total: int) -> None:
        """The plan is made: the runs to come and the units of all of them."""
        self.state.update(run_ids=run_ids, total=total)

    def enter(self, stage_total: int) -> None:
        """The next stage of a run, with its units."""
        self.state.update(stage_done=0, stage_total=stage_total)

    def say(self, stage: str, message: str) -> None:
        """Name the stage and what is being done; told when it changes."""
        changed = (stage, message) != (self.state["stage"], self.state["message"])
        self.state.update(stage=stage, message=message)
        if changed:
            self._send()

    def inside(self, done: int, total: int, message: str) -> None:
        """Tell how far a long step has come, at most twice a second."""
        if time.monotonic() - self._told > 0.5 or done == total:
            self._told = time.monotonic()
            self.state.update(stage_done=done, stage_total=total, message=message)
            self._send()

    def settle(self, units: int) -> None:
        """Count a batch for good; also reached when a resumed job skips a step that is on record."""
        self.state["done"] += units
        self.state["stage_done"] += units

    def advance(self, computed: int, units: int) -> None:
        """Tell of a batch just done, ``computed`` units of which were not there before."""
        self._computed += computed
        elapsed = time.monotonic() - self._started
        if self._computed:
            self.state["rate"] = round(self._computed / max(elapsed, 1e-6), 3)
            left = max(self.state["total"] - self.state["done"] - units, 0)
            self.state["eta_seconds"] = round(left / self.state["rate"], 1) if self.state["rate"] else None
        self._send(units)

    def end(self) -> None:
        """Everything is done."""
        self.state.update(stage="finished", message="", done=self.state["total"], eta_seconds=0.0)
        self._send()

    def _send(self, units: int = 0) -> None:
        state = {
            **self.state,
            "done": self.state["done"] + units,
            "stage_done": self.state["stage_done"] + units,
        }
        DBOS.set_event(PROGRESS_EVENT, state)
        for listener in LISTENERS:
            listener(self._job_id, state)
