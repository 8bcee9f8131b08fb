"""Actors that share no folder: shards go by way of a store, and every table is that of one machine."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from unittest.mock import Mock

import pytest

from pipelines.errors import PipelineError
from pipelines.experiment.batches import Work
from pipelines.experiment.object_store import Exchange
from pipelines.jobs import client as jobs
from pipelines.preparation.setup import prepare_experiment
from pipelines.session.inputs import Inputs
from pipelines.session.session import Session
from pipelines.settings import Settings
from pipelines.spec.model import places
from pipelines.spec.runs import RunPlan, expand
from pipelines.spec.stage_table import BY_NAME
from pipelines.stages import Batch
from pipelines.worker.ray import Actor
from pipelines.worker.scratch import Scratch
from store import schema
from store.catalog import read_manifest, write_manifest
from store.layout import facts_folder
from store.shards import list_shards
from tests.conftest import ROOT
from tests.pipelines.support import settings, small_spec


def without_folder(home: Path, store: Path) -> Settings:
    return replace(settings(home), engine="ray", shards_url=f"file://{store}")


class Machines:
    """Two actors, each with a scratch folder, and the driver's own data folder, all on the store at ``store``."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.settings = without_folder(folder / "driver", self.store)
        self.request = jobs.workflow_input(small_spec(), places())
        self.runs = expand(small_spec())
        self.actors = [Actor(), Actor()]

    def ask(self, actor: Actor, **task: Any) -> dict[str, Any]:
        (text,) = actor({"task": [json.dumps({**task, "request": self.request})]}, self.settings)["answer"]
        answer: dict[str, Any] = json.loads(text)
        assert not answer.keys() & {"error", "traceback"}, answer
        return answer

    def compute(self) -> list[bool]:
        """Every batch of every run, the actors taking turns; whether each had to be computed."""
        prepared = self.ask(self.actors[0], do="prepare", runs=[run.to_json() for run in self.runs])
        batches, layers = prepared["batches"], prepared["layers"]
        tasks = [
            {"do": "batch", "run": run.to_json(), "stage": name, "batch": row, "layers": layers}
            for late in (False, True)
            for run in self.runs
            for name, rows in batches[run.run_id].items()
            if BY_NAME[name].after_others == late
            for row in rows
        ]
        return [self.ask(self.actors[i % 2], **task)["computed"] for i, task in enumerate(tasks)]

    def driver(self) -> tuple[Work, list[tuple[RunPlan, str, Batch]]]:
        """The driver's work with the manifests it fetches, and every batch."""
        work = Work(Session(Inputs(small_spec(), self.request["folders"], self.settings)), lambda *_, **__: None)
        assert work.exchange is not None
        assert all(work.exchange.fetch_manifest(run.run_id) for run in self.runs)
        prepare_experiment(work.session)
        planned = work.plan(self.runs)
        return work, [
            (run, name, Batch(**row)) for run in self.runs for name, rows in planned[run.run_id].items() for row in rows
        ]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Machines:
    found = Machines(tmp_path_factory.mktemp("machines"))
    assert all(found.compute()), "nothing was there before"
    return found


def shards_of(home: Path, run_id: str) -> dict[str, bytes]:
    """The content of every batch's shard, summaries left out (they are the driver's)."""
    return {
        f"{table.name}/{path.name}": path.read_bytes()
        for table in schema.tables("fact", "result")
        for path in list_shards(home, table.name, run_id)
    }


def test_the_driver_receives_what_one_machine_computes(machines: Machines, undisturbed: Path) -> None:
    work, batches = machines.driver()
    assert not any(work.ensure(run, name, batch) for run, name, batch in batches), "all of it is fetched"
    for run in machines.runs:
        ours, theirs = (shards_of(home, run.run_id) for home in (machines.settings.home, undisturbed))
        assert ours
        assert ours == {name: theirs[name] for name in ours}


def test_what_is_there_is_not_computed_again_by_new_actors(machines: Machines) -> None:
    machines.actors = [Actor(), Actor()]
    assert not any(machines.compute())


def test_an_upload_that_was_cut_off_is_computed_again(machines: Machines, undisturbed: Path) -> None:
    cut = next((machines.store / "shards").rglob("predictions/*.parquet"))
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-20])
    machines.actors = [Actor(), Actor()]
    assert machines.compute().count(True) == 1
    assert cut.read_bytes() == whole


def test_shards_of_other_weights_are_not_found(machines: Machines, tmp_path: Path) -> None:
    run_id = machines.runs[0].run_id
    exchange = Exchange(f"file://{machines.store}", tmp_path)
    assert exchange.fetch_manifest(run_id)
    exchange.fetch_run(run_id)
    shard = next(facts_folder(tmp_path).rglob("*.parquet"))
    table = shard.parent.parent.name.removeprefix("table=")
    assert exchange.fetch(table, run_id, shard.name)
    manifest = read_manifest(tmp_path, run_id)
    write_manifest(tmp_path, replace(manifest, model={**manifest.model, "weights_sha256": "0" * 64}))
    assert not exchange.fetch(table, run_id, shard.name)


def test_what_a_killed_actor_leaves_goes_when_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alive = Scratch()
    code = "import os; from pipelines.worker.scratch import Scratch;"
    code += "(Scratch().path / 'a').touch(); os.kill(os.getpid(), 9)"
    own = {**os.environ, "TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=own).returncode == -signal.SIGKILL
    (left,) = (path for path in tmp_path.iterdir() if path != alive.path)
    assert left.joinpath("a").exists()
    (tmp_path / "vmoer-actor-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    after = Scratch()
    assert {path.name for path in tmp_path.iterdir()} == {
        alive.path.name,
        after.path.name,
        "vmoer-actor-link",
        "elsewhere",
    }
    for scratch in (alive, after):
        scratch.remove()
        assert not scratch.path.exists()


def test_actors_work_in_folders_that_go_with_them(machines: Machines, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    actor = Actor()
    machines.ask(actor, do="prepare", runs=[])
    assert len(list(tmp_path.glob("vmoer-actor-*"))) == 1
    del actor
    gc.collect()
    assert not list(tmp_path.glob("vmoer-actor-*"))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense://bucket", "VMOER_SHARDS_URL='nonsense://bucket' cannot be used: Protocol not known"),
        ("file:///proc/nothing", "the store at VMOER_SHARDS_URL refused: "),
    ],
)
def test_a_store_that_cannot_be_used_is_named(url: str, sentence: str, undisturbed: Path) -> None:
    with pytest.raises(PipelineError, match=sentence):
        Exchange(url, undisturbed).send_manifest(expand(small_spec())[0].run_id)


def test_credentials_in_the_url_are_not_repeated_whole_or_in_parts(tmp_path: Path) -> None:
    """S3 has none in its URLs: it takes them, up to the first slash, for the bucket's name."""
    with pytest.raises(PipelineError) as unknown:
        Exchange("nonsense://KEYID:wJalr/K7M+bP@bucket", tmp_path)
    exchange = Exchange("memory://KEYID:wJalr/K7M+bP@bucket/vmoer", tmp_path)
    with pytest.raises(PipelineError, match="refused: Invalid bucket name") as refused:
        exchange._asked(Mock(side_effect=ValueError('Invalid\nbucket name "KEYID:wJalr", not K7M+bP@bucket')))
    for error in (unknown, refused):
        assert "bucket" in str(error.value)
        assert not [part for part in ("KEYID", "wJalr", "K7M", "\n") if part in str(error.value)]


def test_folders_are_made_but_no_bucket(tmp_path: Path, undisturbed: Path) -> None:
    exchange = Exchange(f"file://{tmp_path}/a/b", undisturbed)
    exchange._root = PurePosixPath("bucket/vmoer")  # as a store without a root folder has it
    with pytest.raises(PipelineError, match="refused: No such file"):
        exchange.send_manifest(expand(small_spec())[0].run_id)
    exchange._root = PurePosixPath(tmp_path / "bucket" / "vmoer")
    exchange.send_manifest(expand(small_spec())[0].run_id)
    assert list((tmp_path / "bucket").rglob("*.json"))
