"""Live inspection, the worker's side: a short job with the resident model, before the next step of experiments."""

from __future__ import annotations

import time
from typing import Any

from dbos import DBOS

from pipelines.errors import JobError
from pipelines.inspection.compute import inspect
from pipelines.jobs import inspections as live
from pipelines.model.resident import kept
from pipelines.settings import Settings
from pipelines.worker import workflow as engine
from pipelines.worker.execution import STEP_LOCK
from vmoer.routers.base import routers
from vmoer.scoring.token_budget import exhausted

_TELL_SECONDS = 0.2


def methods() -> dict[str, bool]:
    """Every method but the deterministic one, and whether it has parameters to train."""
    return {name: routers.get(name).trainable for name in routers.names() if name != "deterministic"}


class _Cancelled(Exception):
    """The reader no longer wants the result."""


@DBOS.workflow(name=live.WORKFLOW, max_recovery_attempts=3)
def inspection(inspection_id: str) -> None:
    """Compute one inspection and write its result into the data folder.

    One step: what a dead worker had computed of it is not worth keeping, so its successor begins anew.
    """
    DBOS.run_step({"name": "inspect"}, _compute, inspection_id, engine.configured())


def _compute(inspection_id: str, settings: Settings) -> None:
    watch = _Watch(inspection_id, settings.live_seconds)
    watch.say(0, 0, "waiting for the step in flight")
    try:
        with STEP_LOCK.urgent():
            _inspect(inspection_id, settings, watch)
    except _Cancelled:
        return  # the job database says so already
    except engine.USER_ERRORS as error:
        raise JobError(str(error)) from None
    except OSError as error:
        raise JobError(f"cannot write the result: {error.strerror or error}") from None
    except Exception as error:
        full = exhausted("the inspection", error)
        if full is not None:
            raise JobError(str(full)) from None
        raise JobError(f"unexpected {type(error).__name__} ({str(error)[:200]}); this is a fault of VMoER") from None


def _inspect(inspection_id: str, settings: Settings, watch: _Watch) -> None:
    asked = live.read_request(inspection_id, settings)
    request = live.parse_request(asked.model_dump(), settings)  # the worker's own limits hold
    watch.say(0, 0, f"loading {request.model}")
    resident = kept(request.model, "auto", settings, watch.say)
    watch.start()
    explained = request.why is not None and request.why.algorithm == "shapley"
    watch.limit = settings.live_seconds * (5 if explained else 1)
    summary, decisions = inspect(resident, request, settings, watch.say)
    live.write_result(inspection_id, summary, decisions, settings)


class _Watch:
    """Progress out, cancellation and the time limit in."""

    def __init__(self, inspection_id: str, limit: float) -> None:
        self.limit = limit
        self._id = inspection_id
        self._started: float | None = None
        self._told = 0.0

    def start(self) -> None:
        """Let the clock run: waiting and loading a model do not count."""
        self._started = time.monotonic()

    def say(self, done: int, total: int, message: str) -> None:
        """Tell how far it is, at most every fifth of a second; raises when it is to stop."""
        now = time.monotonic()
        if now - self._told < _TELL_SECONDS:
            return
        self._told = now
        state: dict[str, Any] = {"done": done, "total": total, "message": message}
        DBOS.set_event(live.PROGRESS_EVENT, state)
        status = DBOS.get_workflow_status(self._id)
        if status is not None and status.status == "CANCELLED":
            raise _Cancelled
        if self._started is not None and now - self._started > self.limit:
            raise JobError(
                f"stopped after {self.limit:g} seconds, at {done:,} of {total:,}: use a shorter prompt, fewer samples "
                "or methods, or keep it as a run (VMOER_LIVE_SECONDS)"
            )
