"""The workflow that computes an experiment.

Its steps: plan, prepare, list the batches; then for each run prepare, begin, every batch of every stage, seal (which
summarises) and publish. Only the steps *prepare* train or measure anything before a run.

A step computes a batch and writes its shards under names that follow from the plan, and does nothing when sound shards
of those names are there already. So a process may die anywhere: whoever takes the job over, or repeats the spec, goes
on behind the last complete shard and ends with the same tables. With ``engine: ray`` the batches of all runs are two
steps, which :mod:`pipelines.worker.ray` takes apart again for many devices.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from contextlib import closing
from typing import Any

from dbos import DBOS, PortableWorkflowError
from dbos._error import DBOSBaseException
from sqlalchemy.exc import SQLAlchemyError

from pipelines import stages
from pipelines.errors import JobError, PipelineError, SpecError
from pipelines.experiment.batches import Work
from pipelines.experiment.manifests import end_run, finished, remove_stale_shards, seal_run
from pipelines.jobs.client import STEPS, WORKFLOW, get_job
from pipelines.jobs.database import reason_of
from pipelines.jobs.disk import refuse_over_quota
from pipelines.jobs.log import JobLog
from pipelines.preparation.setup import Setup, prepare_experiment, prepare_run
from pipelines.session.inputs import Inputs
from pipelines.session.session import Session
from pipelines.settings import Settings
from pipelines.spec.model import parse_spec
from pipelines.spec.runs import RunPlan, expand, run_label
from pipelines.stages import Batch
from pipelines.worker.execution import STEP_LOCK, Execution, step
from pipelines.worker.progress import Progress
from pipelines.worker.ray import USER_ERRORS, RayCluster, check_ray
from pipelines.worker.waves import compute_on_ray, tell
from store.catalog import find_manifest
from store.errors import StoreError
from store.files import cannot_write
from store.publish import publish, refuse_newer
from store.redact import redact
from vmoer.routers.base import routers
from vmoer.scoring.token_budget import exhausted

#: jobs that this process has stopped working on, until the job database is seen to know it
#: (:mod:`pipelines.worker.watchdog`)
STOPPED: set[str] = set()

#: what a worker set with :func:`configure`; a workflow gets nothing but its request
_CONFIGURED: list[Settings] = []

ENGINES = ("local", "ray")


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
    """Compute the experiment that a request describes, and return its run ids."""
    job_id = str(DBOS.workflow_id)
    STOPPED.discard(job_id)
    if request.get("steps") != STEPS:
        raise JobError(
            "this job was begun by another version of VMoER, whose steps differ; submit its spec again: what it has "
            "stored is used"
        )
    try:
        return _compute(request, job_id, configured())
    finally:
        STOPPED.add(job_id)


def _compute(request: dict[str, Any], job_id: str, settings: Settings) -> dict[str, Any]:
    with JobLog(settings.logs, job_id) as log, closing(RayCluster(request, settings)) as cluster:
        job = _job(request, job_id, settings, log, cluster)
        try:
            return _run(job)
        except DBOSBaseException:
            # DBOS ends a workflow that is no longer its own with several kinds of error; the status, read from outside
            # the workflow, says which it was
            now = get_job(job_id, settings)
            if now.status == "cancelled":
                log.info("cancelled", reason=now.message)
                _end(job, "cancelled", None)
            else:
                log.info("taken over by another execution")
            raise
        except USER_ERRORS as error:
            log.error("failed", reason=str(error))
            sentence = redact(str(error))
            _end(job, "failed", sentence)
            raise JobError(sentence) from None
        except SQLAlchemyError as error:
            log.error("failed", reason=str(error))
            raise JobError(redact(f"the job database cannot be used: {reason_of(error)}")) from None
        except PortableWorkflowError as error:  # a step's failure is on record, and its process died before the job's
            log.error("failed", reason=error.message, kind=error.name)
            raise JobError(redact(error.message)) from None
        except Exception as error:
            log.error("failed", reason=repr(error), traceback=traceback.format_exc())
            stage = f"stage {job.progress.state['stage'] or 'plan'}"
            refused = cannot_write(f"in {stage}", error) or exhausted(stage, error)
            sentence = (
                redact(str(refused))
                if refused is not None
                else f"unexpected {type(error).__name__} in {stage}; the job's log has the details"
            )
            _end(job, "failed", sentence)
            raise JobError(sentence) from None


def _job(request: dict[str, Any], job_id: str, settings: Settings, log: JobLog, cluster: RayCluster) -> Execution:
    progress = Progress(job_id)
    inputs = Inputs(parse_spec(request["spec"]), request["folders"], settings)
    session = Session(inputs, progress.inside, log.info)
    return Execution(job_id, settings, session, Work(session, log.warning), cluster, progress, log)


def _run(job: Execution) -> dict[str, Any]:
    plan = step(job, "plan", _plan)
    runs = [RunPlan.from_json(values) for values in plan["runs"]]
    todo = [run for run in runs if run.run_id not in plan["finished"]]
    job.progress.begin([run.run_id for run in runs], 0)
    on_ray = plan["engine"] == "ray"  # whoever takes a job over goes on as it was begun
    if todo:
        prepared = step(job, "prepare", _prepare_on_ray if on_ray else _prepare, todo)
        job.session.layers = prepared["layers"]
        batches = prepared["batches"] if on_ray else step(job, "batches", lambda job: job.work.plan(todo))
        total = sum(row["units"] for planned in batches.values() for rows in planned.values() for row in rows)
        job.progress.begin([run.run_id for run in runs], total)
        if on_ray:
            compute_on_ray(job, todo, batches)
        for run in todo:
            if not on_ray:
                _compute_here(job, run, batches[run.run_id])
            step(job, f"{run.run_id}: seal", _seal, run, batches[run.run_id])
            step(job, f"{run.run_id}: publish", _publish, run)
    else:
        step(job, "publish", _publish, runs[0])
    job.progress.end()
    return {"run_ids": [run.run_id for run in runs], "reused": plan["finished"]}


def _plan(job: Execution) -> dict[str, Any]:
    """Return the runs of the experiment and which of them are finished; what cannot be computed is refused first."""
    inputs = job.session.inputs
    job.progress.say("plan", "reading the question sets")
    # refused before anything is computed or written
    refuse_newer(inputs.home)
    for method in inputs.spec.methods:
        if not routers.get(method).closed_form and "closed-form" in inputs.spec.estimators:
            raise SpecError(f"estimators: {method} has no closed form to average in; leave closed-form out")
    runs = expand(inputs.spec)
    done = [run.run_id for run in runs if finished(inputs, run)]
    if len(done) < len(runs):
        refuse_over_quota(job.settings)
    job.log.info("planned", runs=len(runs), reused=len(done))
    return {"engine": job.settings.engine, "runs": [run.to_json() for run in runs], "finished": done}


def _prepare(job: Execution, runs: list[RunPlan]) -> dict[str, Any]:
    """Train the base of the experiment if it is missing, and choose the layers of its methods."""
    job.progress.say("prepare", "the base and the layers of the routers")
    return {"layers": prepare_experiment(job.session)}


def _prepare_on_ray(job: Execution, runs: list[RunPlan]) -> dict[str, Any]:
    """Prepare and begin every run on one actor, before many share what it has trained."""
    job.progress.say("prepare", "preparing on Ray")
    exchange = job.work.exchange
    if exchange is not None:
        if job.session.spec.trains:
            raise SpecError("what trains needs a shared data folder, not VMOER_SHARDS_URL: `vmoer train` first")
        todo = {run.run_id for run in runs}
        for run in expand(job.session.spec):
            if run.run_id not in todo:
                exchange.send_manifest(run.run_id)
    (answer,) = job.cluster.map([{"do": "prepare", "runs": [run.to_json() for run in runs]}])
    tell(job, answer)
    if exchange is not None:
        for run in runs:
            exchange.fetch_manifest(run.run_id)
    return {"layers": answer["layers"], "batches": answer["batches"]}


def _prepare_run(job: Execution, run: RunPlan) -> dict[str, Any]:
    job.progress.say("prepare", run_label(run))
    return prepare_run(job.session, run).to_json()


def _begin(job: Execution, run: RunPlan, setup: dict[str, Any]) -> None:
    job.progress.say("begin", run_label(run))
    job.work.begin(run, Setup(**setup))
    job.log.info("run started", run_id=run.run_id)


def _compute_here(job: Execution, run: RunPlan, batches: dict[str, list[dict[str, Any]]]) -> None:
    job.progress.enter(0)
    setup = step(job, f"{run.run_id}: prepare", _prepare_run, run)
    step(job, f"{run.run_id}: begin", _begin, run, setup)
    for name, rows in batches.items():
        job.progress.enter(sum(row["units"] for row in rows))
        for row in rows:
            batch = Batch(**row)
            step(job, f"{run.run_id}: {name} {batch.key}", _batch, run, name, batch)
            job.progress.settle(batch.units)


def _batch(job: Execution, run: RunPlan, name: str, batch: Batch) -> None:
    job.progress.say(name, run_label(run))
    started = time.perf_counter()
    computed = job.work.ensure(run, name, batch)
    seconds = time.perf_counter() - started
    job.progress.advance(batch.units if computed else 0, batch.units)
    job.log.info("batch", run_id=run.run_id, stage=name, batch=batch.key, computed=computed, seconds=round(seconds, 3))


def _seal(job: Execution, run: RunPlan, batches: dict[str, list[dict[str, Any]]]) -> None:
    job.progress.say("summarise", run_label(run))
    planned = [(name, Batch(**row)) for name, rows in batches.items() for row in rows]
    expected = {
        (table, f"{name}/{batch.key}") for name, batch in planned for table in stages.tables_of(name, job.session.spec)
    }
    remove_stale_shards(job.settings.home, run.run_id, expected)
    for name, batch in planned:  # a shard may have been lost since its step was recorded
        job.work.ensure(run, name, batch)
    for name in batches:
        summary = {table: data for table, data in stages.stage(name).summarise(job.session, run).items() if data}
        job.work.write(run, f"summary/{name}", summary)
    seal_run(job.session.inputs, run)
    job.log.info("run finished", run_id=run.run_id)


def _publish(job: Execution, run: RunPlan) -> int:
    job.progress.say("publish", run_label(run))
    return publish(job.settings.home)


def _end(job: Execution, status: str, reason: str | None) -> None:
    """Leave the runs that were being computed in a state that says what happened, and let readers see it."""
    stopped = False
    # what ended the job (a full disk) may also stop this; the next attempt goes on all the same
    with contextlib.suppress(StoreError, OSError):
        for run in expand(job.session.spec):
            manifest = find_manifest(job.settings.home, run.run_id)
            if manifest is not None and manifest.status == "running":
                stopped = True
                end_run(job.settings.home, run.run_id, status, reason)
    if stopped:
        with STEP_LOCK, contextlib.suppress(StoreError, OSError):
            publish(job.settings.home)
