"""Live inspections: what a worker computes, beside a long experiment, cancelled, refused, cleaned up."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.data.prompt_files import Prompt
from pipelines.errors import DataError, JobError, SpecError
from pipelines.jobs import allowed as web
from pipelines.jobs import client as jobs
from pipelines.jobs import inspections as live
from pipelines.settings import Settings
from pipelines.spec.model import parse_spec
from pipelines.spec.shipped import shipped_methods
from store.verify import verify
from tests.pipelines.support import published_tables, settings, small_spec, start_worker
from vmoer.routers.base import routers

ASKED: dict[str, Any] = {
    "model": "worldfacts-moe",
    "prompts": ["The capital of France is", "Water boils at"],
    "methods": ["mfvr", "temperature"],
    "samples": 6,
    "new_tokens": 3,
    "routers": "untrained",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with a worker."""
    folder = tmp_path_factory.mktemp("live")
    worker = start_worker(folder)
    try:
        yield folder
    finally:
        worker.terminate()
        worker.wait(timeout=60)


def ended(inspection_id: str, here: Settings, seconds: float = 120) -> live.Inspection:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = live.get_inspection(inspection_id, here)
        if found.ended:
            return found
        time.sleep(0.05)
    raise AssertionError(f"still {found}")


def inspected(home: Path, **changes: Any) -> tuple[dict[str, Any], Any]:
    here = settings(home)
    request = live.parse_request({**ASKED, **changes}, here)
    inspection_id = live.submit(request, here)
    found = ended(inspection_id, here)
    assert found.status == "finished", found.message
    return live.read_result(inspection_id, here)


@pytest.mark.slow
def test_a_result_holds_every_token_layer_and_sample(home: Path) -> None:
    summary, table = inspected(home)
    rows = table.to_pandas()
    assert set(rows["method"]) == {"deterministic", "mfvr", "temperature"}
    assert summary["methods"]["mfvr"] == {"heads": "untrained", "layers": [0, 1]}
    assert summary["methods"]["temperature"]["heads"] == "without parameters"
    for number, prompt in enumerate(summary["prompts"]):
        for method, found in prompt["methods"].items():
            mine = rows[(rows["prompt"] == number) & (rows["method"] == method)]
            samples = 1 if method == "deterministic" else 6
            assert (mine["chosen"].map(sum) == samples * 2).all()
            assert sorted(mine["layer"].unique()) == [0, 1]
            assert mine["position"].nunique() == prompt["n_tokens"] + len(found["next"]) - 1
            assert (mine["logit_variance"].notna() == (method == "mfvr")).all()
            assert "".join(mine[(mine["layer"] == 0) & (mine["phase"] == "decode")]["token"]) == found["generated"]
            for entry in found["next"]:
                assert entry["mutual_information"] == pytest.approx(
                    max(entry["predictive_entropy"] - entry["expected_entropy"], 0), abs=1e-9
                )
                if method == "deterministic":
                    assert all(one["native"] == one["mean"] for one in entry["candidates"])
                    assert entry["mutual_information"] < 1e-6
                    assert entry["taken"] in (None, max(entry["candidates"], key=lambda one: one["native"])["token"])
    plain = rows[rows["method"] == "deterministic"]
    for row in plain.itertuples():
        assert sorted(np.flatnonzero(row.chosen)) == sorted(row.expert_index)


@pytest.mark.slow
def test_shipped_routers_are_taken_where_there_are_some_and_named(home: Path) -> None:
    methods = ["mfvr", "fcvr-lowrank", "temperature"]
    found = inspected(home, methods=methods, routers="shipped", prompts=["Water"], new_tokens=0)[0]["methods"]
    for method in ("mfvr", "fcvr-lowrank"):
        shipped = method in shipped_methods("worldfacts-moe")
        assert found[method]["heads"] == ("shipped" if shipped else "untrained")
    assert found["mfvr"]["heads"] == "shipped"
    assert found["temperature"]["heads"] == "without parameters"


@pytest.mark.slow
def test_the_worker_says_which_methods_it_knows(home: Path, tmp_path: Path) -> None:
    inspected(home, methods=[], new_tokens=0)
    known = live.known_methods(settings(home))
    assert known == {name: routers.get(name).trainable for name in routers.names() if name != "deterministic"}
    assert live.known_methods(settings(tmp_path)).items() <= known.items()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result_and_another_one_does_not(home: Path) -> None:
    first, again, other = (inspected(home, seed=seed)[1].to_pandas() for seed in (1, 1, 2))
    assert first.astype(str).equals(again.astype(str))
    assert not first.astype(str).equals(other.astype(str))


@pytest.mark.slow
def test_why_is_complete_for_shapley_and_says_so_when_it_is_not(home: Path) -> None:
    why = {"method": "mfvr", "layer": 1, "position": 4, "algorithm": "shapley", "permutations": 4}
    asked = {"prompts": ["The capital of France is"], "methods": [], "new_tokens": 0}
    found = inspected(home, **asked, why=why)[0]["why"]
    assert found["complete"]
    assert sum(found["values"]) == pytest.approx(found["value"] - found["baseline_value"], abs=1e-5)
    assert len(found["values"]) == len(found["tokens"]) == len(found["spread"]) == 5
    single = inspected(home, **asked, why={**why, "algorithm": "ablation"})[0]["why"]
    assert single["spread"] is None
    assert single["complete"] == (single["incomplete"] is not None and single["incomplete"] <= 0.1)


@pytest.mark.slow
def test_prompts_are_in_the_data_folder_and_not_in_the_job_database(home: Path) -> None:
    inspected(home, prompts=["xylophone-marmalade"], methods=[])
    database = b"".join(path.read_bytes() for path in home.glob("jobs.sqlite*"))
    assert b"xylophone-marmalade" not in database
    kept = [path for path in (home / "inspections").iterdir() if b"xylophone" in path.read_bytes()]
    assert len(kept) >= 2


@pytest.mark.slow
def test_a_cancelled_inspection_ends_and_the_next_one_is_served(home: Path) -> None:
    here = settings(home)
    long = live.parse_request({**ASKED, "prompts": ["word " * 100] * 16, "samples": 100, "new_tokens": 30}, here)
    inspection_id = live.submit(long, here)
    deadline = time.monotonic() + 60
    while live.get_inspection(inspection_id, here).total == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    waiting = live.submit(live.parse_request({**ASKED, "methods": []}, here), here)
    assert live.get_inspection(waiting, here).status == "queued"
    assert live.get_inspection(waiting, here).ahead == 1
    live.cancel(inspection_id, here)
    assert ended(waiting, here).status == "finished"
    assert live.get_inspection(inspection_id, here).status == "cancelled"
    with pytest.raises(JobError, match="gone or damaged"):
        live.read_result(inspection_id, here)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc says that a process is stopped")
def test_a_stopped_worker_is_named_and_goes_on(home: Path) -> None:
    """SIGSTOP in the middle of an inspection: whoever looks is told at once, and SIGCONT lets it finish."""
    here = settings(home)
    long = live.parse_request({**ASKED, "prompts": ["word " * 100] * 4, "samples": 20}, here)
    inspection_id = live.submit(long, here)
    deadline = time.monotonic() + 60
    while live.get_inspection(inspection_id, here).total == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    (pid,) = [json.loads(path.read_text())["pid"] for path in (home / "workers").glob("*.lock")]
    os.kill(pid, signal.SIGSTOP)
    try:
        found = live.get_inspection(inspection_id, here)
        assert found.status == "running"
        assert found.message.startswith(
            f"its worker (process {pid}) is stopped and computes nothing; `kill -CONT {pid}`"
        )
        assert live.workers(here) == [], "it would take no inspection now"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert live.workers(here) != []
    assert ended(inspection_id, here).status == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompts": ["word " * 3000]}, "tokens; at most"),
        ({"methods": ["fcrv"]}, "Did you mean 'fcvr'"),
        ({"layers": [7]}, "Layer 7 is not an MoE layer"),
    ],
)
def test_what_only_the_model_can_refuse_fails_with_a_sentence(
    home: Path, changes: dict[str, Any], sentence: str
) -> None:
    here = settings(home)
    found = ended(live.submit(live.parse_request({**ASKED, **changes}, here), here), here)
    assert found.status == "failed"
    assert sentence in found.message


@pytest.mark.slow
def test_an_inspection_comes_between_the_steps_of_an_experiment_and_changes_nothing(home: Path) -> None:
    here = settings(home)
    alone = small_spec(seed=1)
    first = jobs.submit(alone, settings=here)
    served = 0
    while not jobs.get_job(first, here).ended:
        inspected(home, prompts=["The capital of France is"], methods=["mfvr"], new_tokens=0)
        served += not jobs.get_job(first, here).ended
    assert served >= 1, "none was computed while the experiment ran"
    assert jobs.get_job(first, here).status == "finished"
    disturbed = published_tables(home)["predictions"]
    second = jobs.submit(small_spec(seed=1, name="again"), settings=here)
    assert jobs.wait(second, timeout=120, settings=here).status == "finished"
    both = published_tables(home)["predictions"]
    calm = both[~both["run_id"].isin(disturbed["run_id"])]
    columns = ["dataset", "example_id", "confidence", "nll"]
    assert disturbed[columns].reset_index(drop=True).equals(calm[columns].reset_index(drop=True))


@pytest.mark.slow
def test_kept_prompts_become_a_run_with_a_trace_and_no_answers(home: Path) -> None:
    here = settings(home)
    source = web.keep_prompts([Prompt("a", "The capital of France is"), Prompt("b", "مرحبا 👋")], here)
    spec = parse_spec(
        {
            "name": "kept",
            "model": "worldfacts-moe",
            "methods": ["mfvr"],
            "routers": "untrained",
            "controls": [],
            "stages": ["trace"],
            "store_text": True,
            "data": {"id": source.model_dump(exclude_none=True, by_alias=True)},
        }
    )
    job = jobs.wait(web.submit(spec, here), timeout=120, settings=here)
    assert job.status == "finished", job.message
    examples = published_tables(home)["examples"]
    mine = examples[examples["run_id"].isin(job.run_ids)]
    assert set(mine["prompt"]) == {"The capital of France is", "مرحبا 👋"}
    assert mine["answer_index"].isna().all()
    assert verify(home) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "/etc"}, "may not be used from here"),
        ({"model": "../worldfacts-moe"}, "may not be used from here"),
        ({"prompts": []}, "prompts"),
        ({"prompts": ["a"] * 17}, "17 is more than 16 prompts"),
        ({"prompts": ["a", " "]}, "prompt 2 is empty"),
        ({"prompts": ["\ud800"]}, "lone surrogate"),
        ({"prompts": ["x" * 20_001]}, "at most 20,000 are inspected live"),
        ({"samples": 0}, "samples"),
        ({"samples": 101}, "101 is more than 100 routing samples"),
        ({"samples": 10**9}, "samples"),
        ({"new_tokens": 33}, "33 is more than 32 new tokens"),
        ({"methods": ["mfvr", "mfvr"]}, "listed twice"),
        ({"layers": "leverage:3"}, "measured on a question set"),
        ({"layers": "first:3"}, "layer selection"),
        ({"sample": 3}, "did you mean 'samples'"),
        ({"why": {"method": "mfvr", "layer": 0, "position": 0}}, "one prompt without new tokens"),
    ],
)
def test_requests_beyond_the_limits_are_refused_before_they_are_queued(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((SpecError, DataError), match=sentence):
        live.parse_request({**ASKED, **changes}, settings(tmp_path))
    assert not (tmp_path / "jobs.sqlite").exists()


def test_without_a_worker_inspections_wait_until_the_queue_is_full(tmp_path: Path) -> None:
    here = replace(settings(tmp_path), live_waiting=2)
    request = live.parse_request({**ASKED, "methods": []}, here)
    assert live.workers(here) == []
    first, second = live.submit(request, here), live.submit(request, here)
    assert [live.get_inspection(one, here).ahead for one in (first, second)] == [0, 1]
    with pytest.raises(JobError, match="2 inspections wait already"):
        live.submit(request, here)
    live.cancel(first, here)
    assert live.get_inspection(first, here).status == "cancelled"
    live.submit(request, here)


@pytest.mark.parametrize("wrong", ["../../etc/passwd", "", "20260101-000000-000000000000", "x" * 300, "a\0b"])
def test_an_unknown_id_is_a_sentence_and_no_path(tmp_path: Path, wrong: str) -> None:
    for function in (live.get_inspection, live.read_result, live.read_request):
        with pytest.raises(JobError, match=r"no id|no inspection|gone"):
            function(wrong, settings(tmp_path))


def test_old_and_large_results_go_and_the_newest_stay(tmp_path: Path) -> None:
    folder = tmp_path / "inspections"
    folder.mkdir()
    ids = [f"2026010{day}-000000-00000000000{day}" for day in range(1, 6)]
    for inspection_id in ids:
        for suffix in ("json", "parquet", "request.json"):
            (folder / f"{inspection_id}.{suffix}").write_bytes(b"x" * 100_000)
    (folder / "notes.txt").write_text("not ours")
    here = replace(settings(tmp_path), live_keep_megabytes=1.0)
    os.utime(folder / f"{ids[4]}.json", (0, 0))
    assert live.clean(here) == 2, "three of 300 kB fit into a megabyte"
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {*ids[2:], "notes"}
    for path in folder.glob(f"{ids[2]}.*"):
        os.utime(path, (0, 0))
    assert live.clean(here) == 1
    assert not list(folder.glob(f"{ids[2]}.*"))
