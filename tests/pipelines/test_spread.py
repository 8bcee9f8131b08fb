"""``engine: ray``: the tables of the local engine, also when an actor and the driver are killed on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pipelines.errors import PipelineError
from pipelines.experiment import batches as work
from pipelines.jobs import client as jobs
from pipelines.jobs.disk import met_full_disk
from pipelines.spec.model import places
from pipelines.spec.runs import expand
from pipelines.worker import workflow as engine
from pipelines.worker.ray import Actor, RayCluster, outcome
from store.catalog import read_manifest, write_manifest
from store.errors import WriteError
from store.verify import verify
from tests.pipelines.support import assert_same_tables, environment, settings, small_spec

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra [ray] is not installed")


#: what a Python process does first when this is on its path: writing routing facts fails as on a full disk
FULL = """
import errno, os

real = os.replace

def replace(source, target, **options):
    if "table=routing" in str(target) and os.path.exists({flag!r}):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return real(source, target, **options)

os.replace = replace
"""


@pytest.fixture
def start(tmp_path: Path, spec_file: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a driver that computes in ``ray`` of the test's folder; none outlives the test."""
    command = [sys.executable, "-m", "pipelines", "run", str(spec_file), "--device", "cpu", "--engine", "ray", "--json"]
    drivers = []

    def begin(**own: str) -> subprocess.Popen[bytes]:
        own = {**environment(tmp_path / "ray"), "VMOER_ACTORS": "2", **own}
        with (tmp_path / "output").open("wb") as output:
            drivers.append(subprocess.Popen(command, env=own, stdout=output, stderr=subprocess.DEVNULL))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.kill()
        driver.wait()


def full_disk(folder: Path) -> dict[str, str]:
    """The environment of processes that find no room for routing facts while the file ``full`` is there."""
    (folder / "full").touch()
    (folder / "sitecustomize.py").write_text(FULL.format(flag=str(folder / "full")))
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def events(home: Path, event: str) -> list[dict[str, Any]]:
    """The entries of one kind in the logs of all jobs, oldest first."""
    files = sorted((home / "logs").glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_batch(home: Path, process: subprocess.Popen[bytes], after: int = 0) -> dict[str, Any]:
    wait_for(lambda: len(events(home, "batch")) > after, process)
    return events(home, "batch")[after]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@needs_ray
@pytest.mark.slow
def test_tables_equal_those_of_the_local_engine_though_driver_and_actor_are_killed_and_the_disk_is_full(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]], undisturbed: Path
) -> None:
    home = tmp_path / "ray"
    driver = start()
    first = wait_for_batch(home, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 60
    while not gone(first["actor"]):
        assert time.monotonic() < deadline, "an actor outlived its driver"
        time.sleep(0.1)
    assert len(events(home, "batch")) < 26

    driver = start(**full_disk(tmp_path))
    wait_for(lambda: len(events(home, "waiting for room")) > 0, driver)
    (tmp_path / "full").unlink()
    done = len(events(home, "batch"))
    again = wait_for_batch(home, driver, after=done)
    os.kill(again["actor"], signal.SIGKILL)
    assert driver.wait(timeout=400) == 0
    job = json.loads((tmp_path / "output").read_text())
    assert job["status"] == "finished"
    assert job["done"] == job["total"]
    rows = events(home, "batch")[done:]
    assert any(not row["computed"] for row in events(home, "batch")), "what the first driver had stored is used"
    assert "the disk is full" in events(home, "waiting for room")[0]["reason"]
    assert len({row["actor"] for row in rows}) >= 2, "the work was shared"
    assert verify(home) == []
    assert_same_tables(home, undisturbed)


@pytest.fixture
def request_of_small() -> dict[str, Any]:
    return jobs.workflow_input(small_spec(), places())


def answer_of(actor: Actor, home: Path, task: dict[str, Any]) -> dict[str, Any]:
    (text,) = actor({"task": [json.dumps(task)]}, settings(home))["answer"]
    return json.loads(text)


@pytest.fixture
def prepared(tmp_path: Path, undisturbed: Path) -> Iterator[Path]:
    """The stored runs of the small experiment, one shard of the baseline missing."""
    home = tmp_path / "home"
    shutil.copytree(undisturbed, home)
    run = expand(small_spec())[0]
    next((home / "facts" / "table=predictions" / f"run_id={run.run_id}").glob("*.parquet")).unlink()
    return home


def tasks_of(actor: Actor, home: Path, request: dict[str, Any]) -> list[dict[str, Any]]:
    runs = [run.to_json() for run in expand(small_spec())[:1]]
    prepared = answer_of(actor, home, {"do": "prepare", "runs": runs, "request": request})
    rows = prepared["batches"][runs[0]["run_id"]]["evaluate"]
    task = {"do": "batch", "run": runs[0], "stage": "evaluate", "layers": prepared["layers"], "request": request}
    return [{**task, "batch": row} for row in rows]


def test_an_actor_computes_what_is_missing_and_nothing_else(prepared: Path, request_of_small: dict[str, Any]) -> None:
    actor = Actor()
    tasks = tasks_of(actor, prepared, request_of_small)
    first = [answer_of(actor, prepared, task)["computed"] for task in tasks]
    assert sorted(first) == [False] * (len(tasks) - 1) + [True]
    assert not any(answer_of(actor, prepared, task)["computed"] for task in tasks)


def test_an_actor_refuses_other_questions_and_weights_than_the_run_began_with(
    prepared: Path, request_of_small: dict[str, Any]
) -> None:
    tasks = tasks_of(Actor(), prepared, request_of_small)
    manifest = read_manifest(prepared, expand(small_spec())[0].run_id)
    for changed, sentence in (
        ({"dtype": "bfloat16"}, "other weights or another number format"),
        (
            {"datasets": [{**row, "content_sha256": "0" * 64} for row in manifest.datasets]},
            "question set 'test' is not the one",
        ),
    ):
        write_manifest(prepared, replace(manifest, **changed))  # type: ignore[arg-type]
        answers = [answer_of(Actor(), prepared, task) for task in tasks]
        refused = [answer["error"] for answer in answers if "error" in answer]
        assert len(refused) == 1, "only what would be computed anew is refused"
        assert sentence in refused[0]


def test_a_full_disk_comes_back_as_what_the_engine_waits_for(
    prepared: Path, request_of_small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tasks_of(Actor(), prepared, request_of_small)
    refusal = WriteError("cannot write a: the disk is full", full=True)
    monkeypatch.setattr(work, "write_shard", Mock(side_effect=refusal))
    answers = [answer_of(Actor(), prepared, task) for task in tasks]
    (refused,) = (answer for answer in answers if "error" in answer)
    with pytest.raises(WriteError, match="disk is full") as caught:
        outcome(refused)
    assert met_full_disk(caught.value)
    with pytest.raises(PipelineError, match="other"):
        outcome({"error": "other", "full": False})


def test_an_unexpected_error_comes_back_with_its_traceback(tmp_path: Path, request_of_small: dict[str, Any]) -> None:
    answer = answer_of(Actor(), tmp_path, {"do": "batch", "run": {}, "request": request_of_small})
    assert "Traceback" in answer["traceback"]
    assert answer["pid"] == os.getpid()


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="there is no engine 'dask'; there are local and ray"):
        engine.configure(replace(settings(tmp_path), engine="dask"))


@needs_ray
@pytest.mark.slow
def test_more_actors_than_gpus_are_refused(tmp_path: Path, request_of_small: dict[str, Any]) -> None:
    wanted = replace(settings(tmp_path), device="cuda", engine="ray", actors=100_000)
    refused = pytest.raises(PipelineError, match="GPUs for 100000 actors")
    with closing(RayCluster(request_of_small, wanted)) as cluster, refused:
        cluster.start()
