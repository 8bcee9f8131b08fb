"""Metrics and health: the numbers are those of the data folder, and what is wrong is said."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from dbos import _migration

from pipelines.errors import JobError, PipelineError, ServeError
from pipelines.jobs import client as jobs
from pipelines.jobs import disk as room
from pipelines.jobs.database import connect
from pipelines.jobs.locks import DeviceLock
from pipelines.jobs.retention import remove
from pipelines.serve import health
from pipelines.settings import Settings
from pipelines.spec.model import places
from store import layout
from store.publish import current_number
from store.retention import run_sizes
from tests.pipelines.support import small_spec, start_worker
from tests.store.factory import make_store, run_id

SMALL = {"layers": 3, "experts": 6, "top_k": 2, "examples": 4, "tokens": (2, 5)}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    make_store(tmp_path / "data", runs=("deterministic", "fcvr"), **SMALL)
    return Settings(home=tmp_path / "data", device="cpu", min_free_mb=0.001)


def numbers(text: str) -> dict[str, float]:
    """Metric with its labels → value, as a scraper reads it."""
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_numbers_are_those_of_the_folder(settings: Settings) -> None:
    jobs.submit(small_spec(), folders=places(), settings=settings)
    lock = DeviceLock(settings.home, "cpu", "worker-cpu")
    found = numbers(health.prometheus(health.look(settings)).decode())
    held = sum(path.stat().st_size for path in settings.home.rglob("*") if path.is_file())
    lock.release()
    assert found['vmoer_jobs{status="queued"}'] == found["vmoer_queue_length"] == 1
    assert found['vmoer_jobs{status="failed"}'] == 0
    assert found['vmoer_worker_up{worker="worker-cpu"}'] == found["vmoer_workers"] == 1
    assert found["vmoer_runs"] == 2
    assert found["vmoer_generation"] == current_number(settings.home)
    path = layout.generation_path(settings.home, 1)
    assert found["vmoer_last_publish_timestamp_seconds"] == pytest.approx(path.stat().st_mtime)
    assert found["vmoer_store_bytes"] == held
    assert found["vmoer_healthy"] == 1
    assert numbers(health.prometheus(health.look(settings)).decode())["vmoer_workers"] == 0, "its lock is released"


def test_what_is_wrong_is_said(settings: Settings) -> None:
    layout.generation_path(settings.home, 1).unlink()
    assert "generation 1 is missing" in health.look(settings).problem
    (settings.home / "jobs.sqlite").write_bytes(b"not a database" * 100)
    assert "cannot" in health.look(settings).problem
    empty = health.look(Settings(home=settings.home / "nowhere"))
    assert (empty.runs, empty.generation, empty.problem) == (0, None, "")


def test_an_sqlite_too_old_for_this_python_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """DBOS takes times from a function that SQLite has from 3.42 on; an older one answers NULL."""
    monkeypatch.setattr(_migration, "get_sqlite_timestamp_expr", lambda: "NULL")
    with pytest.raises(JobError, match=r"needs SQLite 3\.42 or later for it, and has \d"), connect(settings):
        pass
    assert not (settings.home / "jobs.sqlite").exists()


def test_the_endpoints_answer_and_refuse_foreign_names(settings: Settings) -> None:
    port = free_port()
    server = health.serve(settings, "127.0.0.1", port)
    try:
        url = f"http://127.0.0.1:{port}"
        code, text = get(f"{url}/metrics")
        assert code == 200
        assert numbers(text)["vmoer_runs"] == 2
        assert get(f"{url}/healthz") == (200, "ok\n")
        assert json.loads(get(f"{url}/health.json")[1])["runs"] == 2
        assert get(f"{url}/../../etc/passwd")[0] == 404
        assert get(f"{url}/metrics", Host="evil.example")[0] == 403
        layout.generation_path(settings.home, 1).unlink()
        code, text = get(f"{url}/healthz")
        assert code == 503
        assert "generation 1 is missing" in text
        with pytest.raises(ServeError, match=f"port {port}"):
            health.serve(settings, "127.0.0.1", port)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_a_worker_tells_of_itself_and_ends_politely(settings: Settings) -> None:
    port = free_port()
    worker = start_worker(settings.home, "--metrics-port", str(port))
    try:
        found: dict[str, float] = {}
        deadline = time.monotonic() + 120
        while not found.get("vmoer_workers") and time.monotonic() < deadline and worker.poll() is None:
            try:
                found = numbers(get(f"http://127.0.0.1:{port}/metrics")[1])
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        assert found["vmoer_workers"] == 1
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=60) == 0
    finally:
        worker.kill()
        worker.wait()
    assert health.look(settings).workers == ()


def test_a_full_quota_says_what_would_free_how_much(settings: Settings) -> None:
    small = Settings(home=settings.home, quota_gb=1e-6)
    largest = max(run_sizes(settings.home).items(), key=lambda item: item[1])
    with pytest.raises(PipelineError, match="more than the quota") as refused:
        jobs.submit(small_spec(), settings=small)
    assert f"`vmoer runs rm {largest[0]}` {room.size(largest[1])}" in str(refused.value)
    assert jobs.list_jobs(settings) == []
    jobs.submit(small_spec(), settings=Settings(home=settings.home, quota_gb=1.0))


def test_a_disk_with_too_little_room_is_refused_before_a_step(settings: Settings) -> None:
    with pytest.raises(PipelineError, match="VMOER_MIN_FREE_MB"):
        room.refuse_full_disk(Settings(home=settings.home, min_free_mb=1e12))
    room.refuse_full_disk(settings)


def test_runs_are_removed_unless_a_job_needs_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    wanted = run_id("fcvr")
    job_id = jobs.submit(small_spec(), folders=places(), settings=settings)
    busy = replace(jobs.get_job(job_id, settings), run_ids=(wanted,))
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "list_jobs", lambda *_, **__: [busy])
        with pytest.raises(PipelineError, match=f"belongs to job {job_id}"):
            remove([wanted], settings)
    assert remove([wanted], settings).runs == 1
    assert wanted not in run_sizes(settings.home) or not (settings.home / "runs" / f"{wanted}.json").exists()
