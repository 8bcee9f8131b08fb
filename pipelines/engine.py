"""The workflow that computes an experiment: plan → every run, stage and batch as one step → summarise → seal → publish.

A step computes a batch and writes its shards under names that follow from the plan, and does nothing when sound shards
of those names are there already. So a process may die anywhere: whoever takes the job over, or repeats the spec, goes
on behind the last complete shard and ends with the same tables.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from dbos import DBOS
from dbos._error import DBOSBaseException

from pipelines import stages
from pipelines.context import Context, run_label
from pipelines.errors import JobError, PipelineError
from pipelines.joblog import JobLog
from pipelines.jobs import PROGRESS_EVENT, WORKFLOW, get_job
from pipelines.manifests import begin_run, end_run, finished, seal_run
from pipelines.runs import RunPlan
from pipelines.settings import Settings
from pipelines.spec import parse_spec
from pipelines.stages import Batch
from pipelines.turns import Turns
from store.errors import StoreError
from store.publish import publish, refuse_newer
from store.shards import check_info, check_pages, list_shards, shard_name, write_shard
from vmoer.errors import VmoerError
from vmoer.routers.base import routers

#: held while a step computes or writes: a polite shutdown waits for the step in flight, an inspection comes before
#: the next one
STEP_LOCK = Turns()

#: told of every progress change in this process (the foreground progress bar)
LISTENERS: list[Callable[[str, dict[str, Any]], None]] = []

#: what a worker set with :func:`configure`; a workflow gets nothing but its request
_CONFIGURED: list[Settings] = []

USER_ERRORS = (PipelineError, StoreError, VmoerError)


def configure(settings: Settings) -> None:
    """Data folder, device and limits of every experiment computed in this process."""
    _CONFIGURED[:] = [settings]


def configured() -> Settings:
    """What :func:`configure` set."""
    return _CONFIGURED[0]


@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=1_000_000)
def experiment(request: dict[str, Any]) -> dict[str, Any]:
    """Compute the experiment a request describes (:func:`pipelines.jobs.workflow_input`); returns its run ids."""
    job_id = str(DBOS.workflow_id)
    settings = configured()
    with JobLog(settings.logs, job_id) as log:
        work = _Experiment(request, job_id, settings, log)
        try:
            return work.run()
        except DBOSBaseException:
            # DBOS ends a workflow that is no longer its own with several kinds of error; the status, read from outside
            # the workflow, says which it was
            if get_job(job_id, settings).status == "cancelled":
                log.info("cancelled")
                work.end("cancelled", None)
            else:
                log.info("taken over by another execution")
            raise
        except USER_ERRORS as error:
            log.error("failed", reason=str(error))
            work.end("failed", str(error))
            raise JobError(str(error)) from None
        except Exception as error:
            log.error("failed", reason=repr(error), traceback=traceback.format_exc())
            sentence = (
                f"unexpected {type(error).__name__} in stage {work.stage or 'plan'}; the job's log has the details"
            )
            work.end("failed", sentence)
            raise JobError(sentence) from None


class _Experiment:
    """One execution of the workflow in this process."""

    def __init__(self, request: dict[str, Any], job_id: str, settings: Settings, log: JobLog) -> None:
        self.settings = settings
        self.context = Context(parse_spec(request["spec"]), request["folders"], self.settings)
        self.job_id = job_id
        self.log = log
        self.stage = ""
        self.current: RunPlan | None = None
        self.progress = _Progress(job_id)
        self.context.report = self.progress.inside

    @property
    def home(self) -> Any:
        return self.settings.home

    def run(self) -> dict[str, Any]:
        plan = self._step("plan", self._plan)
        runs = [RunPlan.from_json(values) for values in plan["runs"]]
        self.progress.begin([run.run_id for run in runs], plan["total"])
        for run in runs:
            if run.run_id in plan["finished"]:
                continue
            self.current = run
            self._step(f"{run.run_id}: begin", self._begin, run)
            batches = plan["batches"][run.run_id]
            for name, rows in batches.items():
                self.progress.enter(sum(row["units"] for row in rows))
                for row in rows:
                    batch = Batch(**row)
                    self._step(f"{run.run_id}: {name} {batch.key}", self._batch, run, name, batch)
                    self.progress.settle(batch.units)
            self._step(f"{run.run_id}: seal", self._seal, run, batches)
            self._step(f"{run.run_id}: publish", self._publish, run)
            self.current = None
        if len(plan["finished"]) == len(runs):
            self._step("publish", self._publish, runs[0])
        self.progress.end()
        return {"run_ids": [run.run_id for run in runs], "reused": plan["finished"]}

    def end(self, status: str, reason: str | None) -> None:
        """Leave the run that was being computed in a state that says what happened, and let readers see it."""
        if self.current is not None:
            end_run(self.home, self.current.run_id, status, reason)
            with STEP_LOCK, contextlib.suppress(StoreError, OSError):  # what ended the job may also stop this
                publish(self.home)

    def _step(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        def guarded() -> Any:
            with STEP_LOCK:
                return work(*arguments)

        return DBOS.run_step({"name": name}, guarded)

    def _plan(self) -> dict[str, Any]:
        """Every batch of every run that is not finished yet; loads the model only when something is left to do."""
        context = self.context
        self.stage = "plan"
        self.progress.say("plan", "reading the question sets")
        # refused before anything is computed or written
        refuse_newer(self.home)
        for method in context.spec.methods:
            routers.get(method)
        runs = context.spec.runs()
        done = [run.run_id for run in runs if finished(context, run)]
        batches: dict[str, dict[str, list[dict[str, Any]]]] = {}
        total = 0
        for run in runs:
            if run.run_id in done:
                continue
            batches[run.run_id] = {}
            for name in self._stages(run):
                planned = stages.stage(name).plan(context, run)
                batches[run.run_id][name] = [batch.to_json() for batch in planned]
                total += sum(batch.units for batch in planned)
        self.log.info("planned", runs=len(runs), reused=len(done), units=total)
        return {"runs": [run.to_json() for run in runs], "finished": done, "batches": batches, "total": total}

    def _stages(self, run: RunPlan) -> list[str]:
        spec = self.context.spec
        wanted = [*spec.stages, *(["train"] if spec.routers.train is not None else [])]
        return [name for name in stages.MODULES if name in wanted and stages.stage(name).applies(run)]

    def _begin(self, run: RunPlan) -> None:
        self.stage = "begin"
        self.progress.say("begin", run_label(run))
        begin_run(self.context, run)
        self.log.info("run started", run_id=run.run_id)

    def _batch(self, run: RunPlan, name: str, batch: Batch) -> None:
        self.stage = name
        self.progress.say(name, run_label(run))
        started = time.perf_counter()
        computed = self._ensure(run, name, batch)
        seconds = time.perf_counter() - started
        self.progress.advance(batch.units if computed else 0, batch.units)
        self.log.info(
            "batch", run_id=run.run_id, stage=name, batch=batch.key, computed=computed, seconds=round(seconds, 3)
        )

    def _ensure(self, run: RunPlan, name: str, batch: Batch) -> bool:
        """Make the shards of a batch exist; False when sound ones were there already."""
        module = stages.stage(name)
        key = f"{name}/{batch.key}"
        if all(self._sound(table, run.run_id, key) for table in module.TABLES):
            return False
        self._write(run, key, module.compute(self.context, run, batch), module.TABLES)
        return True

    def _sound(self, table: str, run_id: str, key: str) -> bool:
        wanted = shard_name(key)
        for path in list_shards(self.home, table, run_id):
            if path.name == wanted:
                try:
                    check_info(path, table, run_id)
                    check_pages(path)
                except StoreError as error:
                    self.log.warning("shard is recomputed", reason=str(error))
                    return False
                return True
        return False

    def _write(self, run: RunPlan, key: str, tables: Mapping[str, Any], expected: tuple[str, ...] | None) -> None:
        if expected is not None and set(tables) != set(expected):
            raise RuntimeError(f"{key} gave {sorted(tables)} instead of {sorted(expected)}")
        for table, data in tables.items():
            write_shard(self.home, table, run.run_id, key, data)

    def _seal(self, run: RunPlan, batches: dict[str, list[dict[str, Any]]]) -> None:
        self.stage = "summarise"
        self.progress.say("summarise", run_label(run))
        expected: set[tuple[str, str]] = set()
        for name, rows in batches.items():
            for row in rows:  # a shard may have been lost since its step was recorded
                self._ensure(run, name, Batch(**row))
                expected |= {(table, shard_name(f"{name}/{row['key']}")) for table in stages.stage(name).TABLES}
        for name in batches:
            summary = {table: data for table, data in stages.stage(name).summarise(self.context, run).items() if data}
            self._write(run, f"summary/{name}", summary, None)
            expected |= {(table, shard_name(f"summary/{name}")) for table in summary}
        seal_run(self.context, run, expected)
        self.log.info("run finished", run_id=run.run_id)

    def _publish(self, run: RunPlan) -> int:
        self.stage = "publish"
        self.progress.say("publish", run_label(run))
        return publish(self.home)


class _Progress:
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
        self.state.update(run_ids=run_ids, total=total)

    def enter(self, stage_total: int) -> None:
        """The next stage of a run, with its units."""
        self.state.update(stage_done=0, stage_total=stage_total)

    def say(self, stage: str, message: str) -> None:
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
