"""``engine: ray``: the batches of an experiment over many devices, as Ray Data actors with one model each.

The driver is the workflow of :mod:`pipelines.worker.workflow`; it never touches the model. Actors compute batches with
:class:`pipelines.experiment.batches.Work`, as a worker does, and write the shards themselves, so nothing but short
messages passes through Ray, and an actor or a driver that dies costs the batches it was computing. The data folder,
the spec's files and a model given as a folder must be at the same paths on every machine; with
``settings.shards_url`` all but the data folder: shards then travel by way of an object store
(:mod:`pipelines.experiment.object_store`), and actors work in scratch folders.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from functools import partial
from typing import Any

from pipelines.errors import PipelineError
from pipelines.experiment.batches import Batches, Work
from pipelines.jobs.disk import met_full_disk
from pipelines.session.inputs import Inputs
from pipelines.session.session import Session
from pipelines.settings import Settings
from pipelines.spec.model import parse_spec
from pipelines.spec.runs import RunPlan
from pipelines.spec.stage_table import BY_NAME
from pipelines.stages import Batch
from pipelines.worker.scratch import Scratch
from store.errors import StoreError, WriteError
from vmoer.errors import VmoerError

USER_ERRORS = (PipelineError, StoreError, VmoerError)

#: rows of a wave travel in blocks; more blocks than this cost the driver more than they balance
_MAX_BLOCKS = 4096
_OBJECT_STORE_BYTES = 100_000_000


#: ``(run id, key)`` of a batch → what an actor is told to do
Tasks = dict[tuple[str, str], dict[str, Any]]


def batch_tasks(runs: Sequence[RunPlan], batches: Batches, layers: dict[str, list[int]], after_others: bool) -> Tasks:
    """The batches of the stages that read other stages' shards, or of those that read none."""
    return {
        (run.run_id, f"{name}/{row['key']}"): {
            "do": "batch",
            "run": run.to_json(),
            "stage": name,
            "batch": row,
            "layers": layers,
        }
        for run in runs
        for name, rows in batches[run.run_id].items()
        if BY_NAME[name].after_others == after_others
        for row in rows
    }


def check_ray() -> None:
    """Refuse to go on without Ray."""
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise PipelineError("engine ray needs Ray: pip install -c constraints.txt -e '.[ray]'") from None


class RayCluster:
    """A Ray session for one execution of an experiment, started here or joined at ``settings.ray_address``.

    It begins with the first :meth:`map`, and again with the first after :meth:`close`.
    """

    def __init__(self, request: dict[str, Any], settings: Settings) -> None:
        self._request = request
        self._on_gpu = settings.device.startswith("cuda")
        # Ray shows each actor its own GPU as the only one
        self._settings = replace(settings, device="cuda") if self._on_gpu else settings
        self._actors = 0
        self._stack = ExitStack()

    def start(self) -> int:
        """Begin the session unless it has begun; returns the number of its actors."""
        if self._actors:
            return self._actors
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._stack.enter_context(redirect_stdout(sys.stderr))  # Ray prints there what standard output must not hold
        self._stack.callback(ray.shutdown)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._settings.ray_address:
            ray.init(address=self._settings.ray_address, **quiet)
        else:
            # a session of this machine alone: nothing listens where others could reach it
            ray.init(
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                num_cpus=max(os.cpu_count() or 1, self._settings.actors),
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        there = math.floor(ray.cluster_resources().get("GPU" if self._on_gpu else "CPU", 0))
        wanted = self._settings.actors or there
        if not 0 < wanted <= there:
            self.close()
            kind = "GPU" if self._on_gpu else "processor"
            raise PipelineError(
                f"engine ray found {there} {kind}s for {wanted or 'its'} actors; set VMOER_ACTORS, or "
                "VMOER_RAY_ADDRESS of a larger cluster"
            )
        self._actors = wanted
        return wanted

    def close(self) -> None:
        """Shut Ray down and free its memory and scratch folders."""
        self._actors = 0
        self._stack.close()

    def map(self, tasks: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Do tasks on actors and yield their answers as they come; a task that failed raises its error here.

        A task is ``do`` with what :class:`Actor` needs for it. An answer holds ``notes`` (lines for the job's log),
        ``pid``, ``seconds`` and ``cpu_seconds`` beside its own values.
        """
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        size = min(self.start(), len(tasks))
        rows = [{"task": json.dumps({**task, "request": self._request})} for task in tasks]
        actor: Any = Actor
        answers = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS)).map_batches(
            actor,
            fn_kwargs={"settings": self._settings},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=1,
            num_gpus=1 if self._on_gpu else 0,
        )
        for row in answers.iter_rows():
            yield outcome(json.loads(row["answer"]))


def outcome(answer: dict[str, Any]) -> dict[str, Any]:
    """An actor's answer; raises the error that it tells of, a full disk as what the engine waits for."""
    if "error" in answer:
        raise WriteError(answer["error"], full=True) if answer["full"] else PipelineError(answer["error"])
    if "traceback" in answer:
        raise RuntimeError(f"in an actor: {answer['traceback']}")
    return answer


class Actor:
    """One process with one device and the model on it; a class that Ray Data makes as many of as it is told to."""

    def __init__(self) -> None:
        self._experiment = ""
        self._work: Work | None = None
        self._notes: list[dict[str, Any]] = []

    def __call__(self, batch: dict[str, Any], settings: Settings) -> dict[str, Any]:
        """The answers to a batch of tasks, both JSON texts."""
        return {"answer": [json.dumps(self._answer(json.loads(task), settings)) for task in batch["task"]]}

    def _answer(self, task: dict[str, Any], settings: Settings) -> dict[str, Any]:
        self._notes.clear()
        started, busy = time.perf_counter(), time.process_time()
        try:
            found = self._do(task, self._work_for(task["request"], settings))
        except Exception as error:
            full = met_full_disk(error)
            known = full or isinstance(error, USER_ERRORS)
            found = {"error": str(error), "full": full} if known else {"traceback": traceback.format_exc()}
        spent = {
            "seconds": round(time.perf_counter() - started, 3),
            "cpu_seconds": round(time.process_time() - busy, 3),
        }
        return {**found, **spent, "pid": os.getpid(), "notes": list(self._notes)}

    def _work_for(self, request: dict[str, Any], settings: Settings) -> Work:
        if self._work is None or self._experiment != request["experiment"]:
            if settings.shards_url:
                scratch = Scratch()
                weakref.finalize(self, scratch.remove)
                settings = replace(settings, home=scratch.path)
            inputs = Inputs(parse_spec(request["spec"]), request["folders"], settings)
            session = Session(inputs, note=partial(self._note, mended=False))
            self._work, self._experiment = Work(session, self._note), request["experiment"]
        return self._work

    def _do(self, task: dict[str, Any], work: Work) -> dict[str, Any]:
        if task["do"] == "prepare":
            batches = work.prepare_all([RunPlan.from_json(run) for run in task["runs"]])
            return {"batches": batches, "layers": work.session.layers}
        work.session.layers = task["layers"]
        run, batch = RunPlan.from_json(task["run"]), Batch(**task["batch"])
        computed = work.ensure(run, task["stage"], batch)
        return {"run_id": run.run_id, "stage": task["stage"], "batch": batch.to_json(), "computed": computed}

    def _note(self, event: str, mended: bool = True, **fields: Any) -> None:
        self._notes.append({"event": event, "mended": mended, **fields})
