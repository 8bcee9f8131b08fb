"""The engine under fault: killed, cancelled, damaged, started twice; the tables always end as if nothing had been."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from pipelines.errors import DeviceBusyError, JobError
from pipelines.experiment.batches import Work
from pipelines.experiment.manifests import recheck
from pipelines.jobs import client as jobs
from pipelines.jobs.locks import DeviceLock, live_executors
from pipelines.preparation.setup import prepare_experiment, prepare_run
from pipelines.session.inputs import Inputs
from pipelines.session.session import Session
from pipelines.spec.model import places
from pipelines.spec.runs import expand
from pipelines.stages import Batch
from store.catalog import delete_run, read_manifest, write_manifest
from store.compact import compact
from store.shards import list_shards, named, read_info
from store.verify import verify
from tests.pipelines.support import (
    assert_same_tables,
    published_tables,
    settings,
    small_spec,
    start_worker,
    vmoer,
)

pytestmark = pytest.mark.slow


def finished_shards(home: Path) -> int:
    return len(list(home.glob("facts/*/*/part-*.parquet")))


def test_worker_killed_again_and_again_ends_with_the_tables_of_an_undisturbed_run(
    tmp_path: Path, undisturbed: Path
) -> None:
    home = tmp_path / "killed"
    job_id = jobs.submit(small_spec(), folders=places(), settings=settings(home))
    chance = random.Random(0)
    total = finished_shards(undisturbed)
    kills = 0
    for kill in range(3):
        worker = start_worker(home)
        goal = (kill + 1) * total // 4
        while finished_shards(home) < goal and worker.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        kills += 1
        job = jobs.get_job(job_id, settings(home))
        assert job.lost
        assert job.status == "lost"
    assert 0 < finished_shards(home) < total
    worker = start_worker(home)
    job = jobs.wait(job_id, timeout=120, settings=settings(home))
    deadline = time.monotonic() + 60
    while job.lost and time.monotonic() < deadline:  # the new worker has not launched yet
        time.sleep(0.2)
        job = jobs.wait(job_id, timeout=120, settings=settings(home))
    worker.terminate()
    assert worker.wait(timeout=60) == 0
    assert kills == 3
    assert job.status == "finished", job.message
    assert job.done == job.total
    assert verify(home) == []
    assert_same_tables(home, undisturbed)


def test_second_start_reuses_everything_and_computes_nothing(undisturbed: Path, spec_file: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("facts/*/*/*.parquet")}
    done = vmoer(undisturbed, "run", str(spec_file), "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["status"] == "finished"
    assert job["total"] == 0
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.glob("facts/*/*/*.parquet")}


def test_one_row_per_real_token_and_moe_layer(undisturbed: Path) -> None:
    tables = published_tables(undisturbed)
    tokens = tables["tokens"].groupby("run_id").size()
    routing = tables["routing"].groupby("run_id").size()
    assert (routing == 2 * tokens).all()  # two MoE layers
    prompt_tokens = tables["examples"].groupby("run_id")["n_tokens"].sum()
    assert (tokens == prompt_tokens).all()


def test_probabilities_sum_to_one_and_nll_follows_from_them(undisturbed: Path) -> None:
    import numpy as np

    rows = published_tables(undisturbed)["predictions"]
    assert len(rows) == 3 * 24
    for row in rows.itertuples():
        assert np.isclose(np.sum(row.probs), 1, atol=1e-12)
        assert np.isclose(row.nll, -np.log(row.probs[row.answer_index]))
        scores = np.exp(row.option_scores - np.max(row.option_scores))
        assert np.allclose(scores / scores.sum(), row.probs)


def test_no_text_of_a_question_is_stored_unless_the_spec_asks_for_it(undisturbed: Path) -> None:
    from pipelines.data.questions import load_questions

    spec = small_spec()
    texts = [
        text
        for _, source in spec.data.by_role()
        for question in load_questions(source).questions
        for text in (question.question, *question.choices)
        if len(text) > 12  # a shorter option may be a word of anything
    ]
    assert len(texts) > 24
    tables = published_tables(undisturbed)
    for column in ("prompt", "choices"):
        assert tables["examples"][column].isna().all()
    assert tables["tokens"]["token"].isna().all()
    assert tables["examples"]["text_sha256"].str.fullmatch("[0-9a-f]{64}").all()
    stored = "\n".join(rows.astype(str).to_csv() for rows in tables.values())
    plain = [path for folder in ("logs", "runs") for path in (undisturbed / folder).rglob("*") if path.is_file()]
    stored += "".join(path.read_text(encoding="utf-8") for path in plain)
    stored += (undisturbed / "jobs.sqlite").read_bytes().decode("utf-8", "replace")
    assert not [text for text in texts if text in stored]


def flip(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)


def compacted(undisturbed: Path, home: Path, grace: float) -> list[Path]:
    """A copy whose second run has its predictions in several merged shards, returned, the first of them damaged."""
    shutil.copytree(undisturbed, home)
    run_id = expand(small_spec())[1].run_id
    compact(home, run_id, grace=grace, rows_per_shard=12)
    merged = [path for path in list_shards(home, "predictions", run_id) if len(read_info(path).steps) > 1]
    flip(merged[0])
    return merged


def test_damaged_and_missing_shards_are_computed_again_by_resume_and_nothing_else(
    tmp_path: Path, spec_file: Path, undisturbed: Path
) -> None:
    """Also of a run that was compacted: of its merged shards one is lost, and costs the steps that it was made of."""
    home = tmp_path / "damaged"
    merged = compacted(undisturbed, home, grace=-1)
    assert len(merged) > 1
    lost = read_info(merged[0]).steps
    baseline, other = (run.run_id for run in expand(small_spec())[:2])
    flip(list_shards(home, "predictions", baseline)[0])
    list_shards(home, "routing", baseline)[0].unlink()
    assert len(verify(home)) > 0
    done = vmoer(home, "run", str(spec_file), "--device", "cpu", "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("it is computed again (step ") == 2
    assert f"merged from by `vmoer compact` is computed again, {named(lost)}" in done.stderr
    log = (home / "logs" / f"{json.loads(done.stdout)['job_id']}.jsonl").read_text()
    entries = [entry for entry in map(json.loads, log.splitlines()) if entry["event"] == "batch" and entry["computed"]]
    assert {f"{entry['stage']}/{entry['batch']}" for entry in entries if entry["run_id"] == other} == set(lost)
    assert sum(entry["run_id"] == baseline for entry in entries) == 2
    assert merged[1].exists(), "what was not lost stays as it is"
    assert verify(home) == []
    assert_same_tables(home, undisturbed)


def test_while_what_was_merged_is_still_there_nothing_is_computed_again(tmp_path: Path, undisturbed: Path) -> None:
    home = tmp_path / "home"
    compacted(undisturbed, home, grace=600)
    run = expand(small_spec())[1]
    recheck(home, small_spec())
    work = Work(Session(Inputs(small_spec(), places(), settings(home))), lambda *_, **__: None)
    prepare_experiment(work.session)
    for name, rows in work.plan([run])[run.run_id].items():
        assert not any(work.ensure(run, name, Batch(**row)) for row in rows)
    for table in ("predictions", "routing", "tokens"):
        before, after = (
            sum(read_info(path).rows for path in list_shards(at, table, run.run_id)) for at in (undisturbed, home)
        )
        assert before == after, "each row is there once"


def test_a_merged_shard_that_is_damaged_after_its_run_was_reopened_is_given_up(
    tmp_path: Path, undisturbed: Path
) -> None:
    home = tmp_path / "home"
    merged = compacted(undisturbed, home, grace=-1)[1]
    recheck(home, small_spec())
    steps = read_info(merged).steps
    flip(merged)
    warned: list[str] = []
    work = Work(
        Session(Inputs(small_spec(), places(), settings(home))),
        lambda event, reason: warned.append(f"{event}: {reason}"),
    )
    run_id = expand(small_spec())[1].run_id
    assert not any(work._sound("predictions", run_id, step) for step in steps)
    assert len(warned) == 1
    assert merged.name in warned[0]
    assert not merged.exists(), "its rows would be there twice"


def test_merged_shards_of_an_earlier_version_are_computed_again_together(tmp_path: Path, undisturbed: Path) -> None:
    home = tmp_path / "home"
    merged = compacted(undisturbed, home, grace=-1)
    manifest = read_manifest(home, expand(small_spec())[1].run_id)
    assert manifest.shards is not None
    for entry in manifest.shards["predictions"]:
        entry["merged"] = len(entry.pop("steps"))
    write_manifest(home, manifest)
    (sentence,) = recheck(home, small_spec())
    assert "does not say of which, so every merged step of the run is computed again" in sentence
    assert not any(path.exists() for path in merged)


def test_a_run_that_was_removed_begins_without_its_old_shards(tmp_path: Path, undisturbed: Path) -> None:
    """The card names the commit that computes; shards of another must not come under it."""
    home = tmp_path / "home"
    shutil.copytree(undisturbed, home)
    removed, other = expand(small_spec())[:2]
    delete_run(home, removed.run_id)
    assert list_shards(home, "predictions", removed.run_id)
    work = Work(Session(Inputs(small_spec(), places(), settings(home))), lambda *_, **__: None)
    prepare_experiment(work.session)
    for run in (removed, other):
        work.begin(run, prepare_run(work.session, run))
    assert not list_shards(home, "predictions", removed.run_id)
    assert list_shards(home, "predictions", other.run_id), "one that goes on keeps its own"


def test_cancelled_job_keeps_its_shards_and_goes_on_when_resumed(tmp_path: Path, undisturbed: Path) -> None:
    home = tmp_path / "cancelled"
    here = settings(home)
    job_id = jobs.submit(small_spec(), folders=places(), settings=here)
    assert jobs.submit(small_spec(), settings=here) == job_id, "the same spec is not queued twice"
    worker = start_worker(home)
    try:
        while finished_shards(home) < 5 and worker.poll() is None:
            time.sleep(0.01)
        jobs.cancel(job_id, here)
        deadline = time.monotonic() + 30
        first = expand(small_spec())[0].run_id
        while read_manifest(home, first).status != "cancelled" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert read_manifest(home, first).status == "cancelled"
        assert jobs.get_job(job_id, here).status == "cancelled"
        with pytest.raises(JobError, match="already been cancelled"):
            jobs.cancel(job_id, here)
        assert jobs.resume(job_id, settings=here) == job_id
        assert jobs.wait(job_id, timeout=120, settings=here).status == "finished"
        with pytest.raises(JobError, match="already finished"):
            jobs.resume(job_id, settings=here)
    finally:
        worker.terminate()
        worker.wait(timeout=60)
    assert_same_tables(home, undisturbed)
    events = [entry["event"] for entry in jobs.read_log(job_id, here, last=1000)]
    assert "cancelled" in events
    assert events[-1] == "run finished"


def test_second_worker_on_a_device_is_refused_with_a_sentence(tmp_path: Path) -> None:
    lock = DeviceLock(tmp_path, "cpu", "worker-cpu")
    assert live_executors(tmp_path) == {"worker-cpu": "cpu"}
    with pytest.raises(DeviceBusyError, match="device cpu already has a worker"):
        DeviceLock(tmp_path, "cpu", "worker-cpu")
    done = vmoer(tmp_path, "worker", "--device", "cpu")
    assert done.returncode == 2
    assert "already has a worker" in done.stderr
    assert "Traceback" not in done.stderr
    lock.release()
    assert live_executors(tmp_path) == {}
    DeviceLock(tmp_path, "cpu", "worker-cpu").release()


def test_failed_job_says_why_in_one_sentence(tmp_path: Path) -> None:
    spec = tmp_path / "bad.yaml"
    spec.write_text("model: no-such-model\ndata: {id: {name: worldfacts, split: test, limit: 3}}\n")
    done = vmoer(tmp_path / "home", "run", str(spec), "--device", "cpu")
    assert done.returncode == 3
    assert "Unknown model 'no-such-model'" in done.stderr
    assert "Traceback" not in done.stderr
    listed = json.loads(vmoer(tmp_path / "home", "jobs", "list", "--json").stdout)
    assert [job["status"] for job in listed] == ["failed"]
    assert "Unknown model" in listed[0]["message"]
