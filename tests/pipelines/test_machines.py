"""Several machines on one PostgreSQL server: each gets work, a dead one's job goes on elsewhere, tables stay equal.

Machines are imitated by worker processes with names, caches and temporary folders of their own; the data folder is
shared, as it is by a network file system.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipelines.errors import JobError
from pipelines.jobs import client as jobs
from pipelines.jobs.locks import live_executors
from pipelines.settings import Settings
from pipelines.spec.model import Spec, places
from pipelines.spec.runs import expand
from store.verify import verify
from tests.harness.processes import Process
from tests.pipelines.postgres import programs, server
from tests.pipelines.support import SPEC, assert_same_tables, settings, small_spec, start_worker, vmoer

pytestmark = pytest.mark.slow

#: a second, shorter experiment
OTHER = {"name": "other", "methods": ["deterministic"], "stages": ["trace", "evaluate"]}


@pytest.fixture(scope="module")
def jobs_url() -> Iterator[str]:
    if programs() is None:
        if os.environ.get("VMOER_REQUIRE_POSTGRES") == "1":
            pytest.exit("VMOER_REQUIRE_POSTGRES=1, but no PostgreSQL server is installed", returncode=1)
        pytest.skip("needs the programs of a PostgreSQL server")
    with server() as url:
        yield url


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, undisturbed: Path) -> Path:
    """Both experiments computed by one undisturbed process each, without a job server."""
    home = tmp_path_factory.mktemp("both") / "home"
    shutil.copytree(undisturbed, home)
    spec = home.parent / "other.yaml"
    spec.write_text(yaml.safe_dump({**SPEC, **OTHER}))
    done = vmoer(home, "run", str(spec), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return home


def start_machine(name: str, here: Settings, scratch: Path) -> Process:
    (scratch / name / "tmp").mkdir(parents=True)
    own = {
        "VMOER_JOBS_URL": here.jobs_url,
        "VMOER_MACHINE": name,
        "VMOER_CACHE": str(scratch / name / "cache"),
        "TMPDIR": str(scratch / name / "tmp"),
    }
    return start_worker(here.home, **own)


def until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


def shards_of(home: Path, spec: Spec) -> int:
    return sum(len(list(home.glob(f"facts/*/run_id={run.run_id}/part-*.parquet"))) for run in expand(spec))


def test_two_machines_share_the_jobs_and_one_takes_over_from_the_dead_other(
    tmp_path: Path, jobs_url: str, both: Path
) -> None:
    home = tmp_path / "shared"
    here = replace(settings(home), jobs_url=jobs_url)
    first, second = small_spec(), small_spec(**OTHER)
    long, short = (jobs.submit(spec, folders=places(), settings=here) for spec in (first, second))
    machines = [start_machine("one", here, tmp_path)]
    try:
        until(lambda: jobs.get_job(long, here).status == "running", "machine one to take the first job")
        machines.append(start_machine("two", here, tmp_path))
        until(lambda: jobs.get_job(short, here).status in ("running", "finished"), "machine two to take the second")
        assert jobs.get_job(long, here).executor == "worker-one.cpu"
        assert jobs.get_job(short, here).executor == "worker-two.cpu"
        assert set(live_executors(home)) == {"worker-one.cpu", "worker-two.cpu"}
        until(lambda: shards_of(home, first) >= 6, "machine one to store something")
        machines[0].send_signal(signal.SIGKILL)
        machines[0].wait()
        assert jobs.get_job(long, here).status == "lost"
        for job_id in (long, short):
            until(lambda job_id=job_id: jobs.get_job(job_id, here).ended, f"job {job_id} to end")
            job = jobs.get_job(job_id, here)
            assert job.status == "finished", job.message
            assert job.executor == "worker-two.cpu"
    finally:
        for machine in machines:
            machine.terminate()
            machine.wait(timeout=60)
    assert not (home / "jobs.sqlite").exists()
    assert verify(home) == []
    assert_same_tables(home, both)


def test_a_job_server_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    away = replace(settings(tmp_path), jobs_url=f"postgresql://vmoer:hidden@/none?host={tmp_path}")
    with pytest.raises(JobError, match="cannot open the job database") as caught:
        jobs.list_jobs(away)
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)
