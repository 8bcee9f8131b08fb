"""Jobs that are stopped on purpose: a worker told to end by its supervisor, and a job over its time limit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.jobs import client as jobs
from pipelines.jobs.disk import WAITING, with_room
from pipelines.spec.model import places
from pipelines.spec.runs import expand
from store.catalog import read_manifest
from store.errors import WriteError
from store.verify import verify
from tests.harness import processes
from tests.pipelines.support import assert_same_tables, environment, settings, small_spec, start_worker


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A data folder whose first worker was told to stop in the middle of a step, its job, and a second worker."""
    home = tmp_path_factory.mktemp("stopped")
    here = settings(home)
    job_id = jobs.submit(small_spec(), folders=places(), settings=here)
    first = processes.run("tests.harness.told_to_stop", str(home), environment=environment(home), timeout=240)
    assert first.returncode == 0, first.stderr
    assert "stopping after the step in flight" in first.stderr
    assert jobs.get_job(job_id, here).lost
    second = start_worker(home)
    try:
        yield home, job_id
    finally:
        second.terminate()
        second.wait(timeout=60)


def ended(job_id: str, home: Path, seconds: float = 120) -> jobs.Job:
    """The job once it has ended; it counts as lost until the second worker is there."""
    deadline = time.monotonic() + seconds
    while not (job := jobs.get_job(job_id, settings(home))).ended:
        assert time.monotonic() < deadline, f"still {job}"
        time.sleep(0.1)
    return job


@pytest.mark.slow
def test_the_step_in_flight_is_finished_and_no_finished_step_is_computed_again(
    stopped: tuple[Path, str], undisturbed: Path
) -> None:
    home, job_id = stopped
    job = ended(job_id, home)
    assert job.status == "finished", job.message
    entries = jobs.read_log(job_id, settings(home), last=1000)
    batches = [entry for entry in entries if entry["event"] == "batch"]
    computed = Counter((one["run_id"], one["stage"], one["batch"]) for one in batches if one["computed"])
    assert set(computed.values()) == {1}, "a step that was finished has been computed again"
    again = [entry for entry in batches if not entry["computed"]]
    assert len(again) <= 1, "only the step in flight, finished but not on record, may be looked at again"
    assert not any(entry["event"] == "shard is recomputed" for entry in entries)
    assert verify(home) == []
    assert_same_tables(home, undisturbed)


@pytest.mark.slow
def test_a_job_over_its_time_limit_is_cancelled_with_a_sentence(stopped: tuple[Path, str]) -> None:
    home, first = stopped
    ended(first, home)
    spec = small_spec(name="limited", seed=1)
    here = replace(settings(home), max_job_hours=0.5 / 3600)
    job = ended(jobs.submit(spec, folders=places(), settings=here), home)
    assert job.status == "cancelled"
    assert "longer than the 0.000139 hours of VMOER_MAX_JOB_HOURS" in job.message
    assert "\n" not in job.message
    begun = [run.run_id for run in expand(spec) if (home / "runs" / f"{run.run_id}.json").exists()]
    deadline = time.monotonic() + 30
    while any(read_manifest(home, run_id).status == "running" for run_id in begun):  # its step in flight ends first
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert jobs.resume(job.job_id, settings=here) == job.job_id, "what was cancelled can go on"


def test_a_step_that_meets_a_full_disk_is_repeated_and_other_errors_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(settings(tmp_path), min_free_mb=0.001)
    pauses: list[float] = []
    seen: list[bool] = []
    notes: list[str] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        seen.append("job" in WAITING)

    monkeypatch.setattr(time, "sleep", sleep)
    refusals: list[Exception] = [
        WriteError("cannot write a: the disk is full", full=True),
        OSError(28, "No space left on device"),
    ]

    def step() -> str:
        if refusals:
            raise refusals.pop(0)
        return "done"

    assert with_room(step, "job", here, lambda event, reason: notes.append(reason)) == "done"
    assert pauses == [1.0, 2.0]
    assert seen == [True, True]
    assert len(notes) == 2
    assert not WAITING
    for error in (WriteError("cannot write a: read-only"), ValueError("full of ideas")):
        refusals.append(error)
        with pytest.raises(type(error)):
            with_room(step, "job", here, print)
    refusals.append(WriteError("cannot write a: the disk is full", full=True))
    with pytest.raises(WriteError, match="disk is full"):
        with_room(step, "job", replace(here, room_minutes=0.001), print)
    assert len(pauses) == 2


def test_the_minutes_of_waiting_count_anew_when_something_was_done_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(settings(tmp_path), min_free_mb=0.001, room_minutes=5)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    left = [3, 2, 1, 1, 1]

    def step() -> str:
        now[0] += 240
        left.pop(0)
        raise WriteError("cannot write a: the disk is full", full=True)

    with pytest.raises(WriteError):
        with_room(step, "job", here, lambda event, reason: None, left=lambda: left[0])
    assert left == [1], "given up only when nothing was done for longer than the minutes"
