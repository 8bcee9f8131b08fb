"""The workflow that computes an experiment: plan → every run, stage and batch as one step → summarise → seal → publish.

A step computes a batch and writes its shards under names that follow from the plan, and does nothing when sound shards
of those names are there already. So a process may die anywhere: whoever takes the job over, or repeats the spec, goes
on behind the last complete shard and ends with the same tables. With ``engine: ray`` the batches of all runs are two
steps, which :mod:`pipelines.spread` takes apart again for many devices.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from dbos import DBOS, PortableWorkflowError
from dbos._error import DBOSBaseException, DBOSWorkflowCancelledError, DBOSWorkflowConflictIDError
from sqlalchemy.exc import SQLAlchemyError

from pipelines import stages
from pipelines.context import Context, run_label
from pipelines.errors import JobError, PipelineError, SpecError
from pipelines.jobdb import reason_of
from pipelines.joblog import JobLog
from pipelines.jobs import WORKFLOW, get_job
from pipelines.manifests import end_run, finished, remove_stale_shards, seal_run
from pipelines.progress import Progress
from pipelines.room import refuse_over_quota, with_room
from pipelines.runs import RunPlan
from pipelines.settings import Settings
from pipelines.spec import parse_spec
from pipelines.spread import USER_ERRORS, Spread, Tasks, batch_tasks, check_ray
from pipelines.stages import Batch
from pipelines.turns import Turns
from pipelines.work import Batches, Work
from store.errors import StoreError
from store.files import cannot_write
from store.publish import publish, refuse_newer
from store.redact import redact
from vmoer.memory import exhausted
from vmoer.routers.base import routers

#: held while a step computes or writes: a polite shutdown waits for the step in flight, an inspection comes before
#: the next one
STEP_LOCK = Turns()

#: jobs that this process has stopped working on, until the job database is seen to know it (:mod:`pipelines.watch`)
STOPPED: set[str] = set()

#: what a worker set with :func:`configure`; a workflow gets nothing but its request
_CONFIGURED: list[Settings] = []

ENGINES = ("local", "ray")
_WATCH_SECONDS = 2.0


def configure(settings: Settings) -> None:
    """Data folder, device, engine and limits of every experiment computed in this process."""
    if settings.engine not in ENGINES:
        raise PipelineError(f"there is no engine {settings.engine!r}; there are {' and '.join(ENGINES)}")
    if settings.engine == "ray":
        check_ray()
    _CONFIGURED[:] = [settings]


def configured() -> Settings:
    """What :func:`configure` set."""
    return _CONFIGURED[0]


@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=1_000_000)
def experiment(request: dict[str, Any]) -> dict[str, Any]:
    """Compute the experiment a request describes (:func:`pipelines.jobs.workflow_input`); returns its run ids."""
    job_id = str(DBOS.workflow_id)
    STOPPED.discard(job_id)
    try:
        return _compute(request, job_id, configured())
    finally:
        STOPPED.add(job_id)


def _compute(request: dict[str, Any], job_id: str, settings: Settings) -> dict[str, Any]:
    with JobLog(settings.logs, job_id) as log, ExitStack() as stack:
        work = _Experiment(request, job_id, settings, log, stack)
        try:
            return work.run()
        except DBOSBaseException:
            # DBOS ends a workflow that is no longer its own with several kinds of error; the status, read from outside
            # the workflow, says which it was
            job = get_job(job_id, settings)
            if job.status == "cancelled":
                log.info("cancelled", reason=job.message)
                work.end("cancelled", None)
            else:
                log.info("taken over by another execution")
            raise
        except USER_ERRORS as error:
            log.error("failed", reason=str(error))
            sentence = redact(str(error))
            work.end("failed", sentence)
            raise JobError(sentence) from None
        except SQLAlchemyError as error:
            log.error("failed", reason=str(error))
            raise JobError(redact(f"the job database cannot be used: {reason_of(error)}")) from None
        except PortableWorkflowError as error:  # a step's failure is on record, and its process died before the job's
            log.error("failed", reason=error.message, kind=error.name)
            raise JobError(redact(error.message)) from None
        except Exception as error:
            log.error("failed", reason=repr(error), traceback=traceback.format_exc())
            stage = f"stage {work.stage or 'plan'}"
            refused = cannot_write(f"in {stage}", error) or exhausted(stage, error)
            sentence = (
                redact(str(refused))
                if refused is not None
                else f"unexpected {type(error).__name__} in {stage}; the job's log has the details"
            )
            work.end("failed", sentence)
            raise JobError(sentence) from None


class _Experiment:
    """One execution of the workflow in this process."""

    def __init__(self, request: dict[str, Any], job_id: str, settings: Settings, log: JobLog, stack: ExitStack) -> None:
        self.settings = settings
        self.request = request
        self.context = Context(parse_spec(request["spec"]), request["folders"], self.settings)
        self.work = Work(self.context, log.warning)
        self.job_id = job_id
        self.log = log
        self._stack = stack
        self._spread: Spread | None = None
        self.stage = ""
        self.begun: list[RunPlan] = []  # and not sealed yet
        self.progress = Progress(job_id)
        self.context.report = self.progress.inside
        self.context.note = log.info

    @property
    def home(self) -> Any:
        return self.settings.home

    def run(self) -> dict[str, Any]:
        plan = self._step("plan", self._plan)
        runs = [RunPlan.from_json(values) for values in plan["runs"]]
        self.progress.begin([run.run_id for run in runs], plan["total"])
        todo = [run for run in runs if run.run_id not in plan["finished"]]
        on_ray = plan.get("engine") == "ray"  # whoever takes a job over goes on as it was begun
        if on_ray and todo:
            self.begun = list(todo)
            self._spread_out(todo, plan["batches"])
        for run in todo:
            batches = plan["batches"][run.run_id]
            if not on_ray:
                self.begun = [run]
                self._compute_here(run, batches)
            self._step(f"{run.run_id}: seal", self._seal, run, batches)
            self._step(f"{run.run_id}: publish", self._publish, run)
            self.begun.remove(run)
        if len(plan["finished"]) == len(runs):
            self._step("publish", self._publish, runs[0])
        self.progress.end()
        return {"run_ids": [run.run_id for run in runs], "reused": plan["finished"]}

    def _compute_here(self, run: RunPlan, batches: dict[str, list[dict[str, Any]]]) -> None:
        self._step(f"{run.run_id}: begin", self._begin, run)
        for name, rows in batches.items():
            self.progress.enter(sum(row["units"] for row in rows))
            for row in rows:
                batch = Batch(**row)
                self._step(f"{run.run_id}: {name} {batch.key}", self._batch, run, name, batch)
                self.progress.settle(batch.units)

    def _spread_out(self, runs: list[RunPlan], batches: Batches) -> None:
        """Every batch of every run on Ray's actors, in two waves: what depends on nothing, then what reads that."""
        for wave in ("batches", "batches that read shards"):
            tasks = batch_tasks(runs, batches, after_others=wave != "batches")
            if not tasks:
                continue
            units = sum(task["batch"]["units"] for task in tasks.values())
            self.progress.enter(units)
            before = self.progress.state["done"]

            # without the lock: actors are ended in the middle of a batch as they are, its shards come whole or not
            DBOS.run_step({"name": wave}, self._wave, wave, tasks)
            self.progress.settle(before + units - self.progress.state["done"])  # also when replayed

    def _wave(self, name: str, tasks: Tasks) -> None:
        """Compute ``tasks``; those that are left when a disk was full are given to new actors once there is room."""

        def attempt() -> None:
            self.stage = name
            self.progress.say(name, f"starting on {self._cluster().actors} actors")
            try:
                self._follow(name, tasks)
            except Exception:
                self._cluster().close()
                self._spread = None
                raise

        with_room(attempt, self.job_id, self.settings, self.log.warning, left=lambda: len(tasks))

    def _follow(self, name: str, tasks: Tasks) -> None:
        """Compute ``tasks`` and take out each that is done."""
        looked = time.monotonic()
        for answer in self._cluster().map(list(tasks.values())):
            self._tell(answer)
            done = (answer["run_id"], f"{answer['stage']}/{answer['batch']['key']}")
            self.work.checked.add(done)
            del tasks[done]
            self.log.info(
                "batch",
                run_id=answer["run_id"],
                stage=answer["stage"],
                batch=answer["batch"]["key"],
                computed=answer["computed"],
                seconds=answer["seconds"],
                cpu_seconds=answer["cpu_seconds"],
                actor=answer["pid"],
            )
            units = answer["batch"]["units"]
            self.progress.advance(units if answer["computed"] else 0, units)
            self.progress.settle(units)
            self.progress.say(name, f"on {self._cluster().actors} actors")
            if time.monotonic() - looked > _WATCH_SECONDS:
                looked = time.monotonic()
                self._check_ownership()

    def _check_ownership(self) -> None:
        """End a wave, unrecorded, when its job was cancelled or went to another process."""
        job = get_job(self.job_id, self.settings)
        if job.status == "cancelled":
            raise DBOSWorkflowCancelledError(f"job {self.job_id} was cancelled")
        if job.executor != DBOS.executor_id:
            raise DBOSWorkflowConflictIDError(self.job_id)

    def _cluster(self) -> Spread:
        """The Ray session, begun when the first wave is really computed."""
        if self._spread is None:
            self._spread = self._stack.enter_context(Spread(self.request, self.settings))
        return self._spread

    def _tell(self, answer: dict[str, Any]) -> None:
        for note in answer["notes"]:
            (self.log.warning if note.pop("mended") else self.log.info)(**note)

    def end(self, status: str, reason: str | None) -> None:
        """Leave the runs that were being computed in a state that says what happened, and let readers see it."""
        # what ended the job (a full disk) may also stop this; the next attempt goes on all the same
        with contextlib.suppress(StoreError, OSError):
            for run in self.begun:
                end_run(self.home, run.run_id, status, reason)
        if self.begun:
            with STEP_LOCK, contextlib.suppress(StoreError, OSError):
                publish(self.home)

    def _step(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        def guarded() -> Any:
            with STEP_LOCK:
                return work(*arguments)

        def step() -> Any:
            return with_room(guarded, self.job_id, self.settings, self.log.warning)

        return DBOS.run_step({"name": name}, step)

    def _plan(self) -> dict[str, Any]:
        """Every batch of every run that is not finished yet; loads the model only when something is left to do."""
        context = self.context
        self.stage = "plan"
        self.progress.say("plan", "reading the question sets")
        # refused before anything is computed or written
        refuse_newer(self.home)
        for method in context.spec.methods:
            if not routers.get(method).closed_form and "closed-form" in context.spec.estimators:
                raise SpecError(f"estimators: {method} has no closed form to average in; leave closed-form out")
        runs = context.spec.runs()
        done = [run.run_id for run in runs if finished(context, run)]
        todo = [run for run in runs if run.run_id not in done]
        if todo:
            refuse_over_quota(self.settings)
        batches: Batches = {}
        if self.settings.engine == "local":
            batches = self.work.plan(todo)
        elif todo:
            self.progress.say("plan", "preparing on Ray")
            if self.work.exchange is not None:
                if context.spec.trains:
                    raise SpecError("what trains needs a shared data folder, not VMOER_SHARDS_URL: `vmoer train` first")
                for run_id in done:
                    self.work.exchange.send_manifest(run_id)
            (answer,) = self._cluster().map([{"do": "prepare", "runs": [run.to_json() for run in todo]}])
            self._tell(answer)
            batches = answer["batches"]
            if self.work.exchange is not None:
                for run in todo:
                    self.work.exchange.fetch_manifest(run.run_id)
        total = sum(row["units"] for planned in batches.values() for rows in planned.values() for row in rows)
        self.log.info("planned", runs=len(runs), reused=len(done), units=total)
        return {
            "engine": self.settings.engine,
            "runs": [run.to_json() for run in runs],
            "finished": done,
            "batches": batches,
            "total": total,
        }

    def _begin(self, run: RunPlan) -> None:
        self.stage = "begin"
        self.progress.say("begin", run_label(run))
        self.work.begin(run)
        self.log.info("run started", run_id=run.run_id)

    def _batch(self, run: RunPlan, name: str, batch: Batch) -> None:
        self.stage = name
        self.progress.say(name, run_label(run))
        started = time.perf_counter()
        computed = self.work.ensure(run, name, batch)
        seconds = time.perf_counter() - started
        self.progress.advance(batch.units if computed else 0, batch.units)
        self.log.info(
            "batch", run_id=run.run_id, stage=name, batch=batch.key, computed=computed, seconds=round(seconds, 3)
        )

    def _seal(self, run: RunPlan, batches: dict[str, list[dict[str, Any]]]) -> None:
        self.stage = "summarise"
        self.progress.say("summarise", run_label(run))
        steps = [(name, Batch(**row)) for name, rows in batches.items() for row in rows]
        expected = {(table, f"{name}/{batch.key}") for name, batch in steps for table in stages.stage(name).TABLES}
        remove_stale_shards(self.home, run.run_id, expected)
        for name, batch in steps:  # a shard may have been lost since its step was recorded
            self.work.ensure(run, name, batch)
        for name in batches:
            summary = {table: data for table, data in stages.stage(name).summarise(self.context, run).items() if data}
            self.work.write(run, f"summary/{name}", summary)
        seal_run(self.context, run)
        self.log.info("run finished", run_id=run.run_id)

    def _publish(self, run: RunPlan) -> int:
        self.stage = "publish"
        self.progress.say("publish", run_label(run))
        return publish(self.home)
