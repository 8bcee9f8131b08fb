"""A data folder that an earlier version wrote and whose worker was copied in its sleep: read, checked, gone on with.

``tests/pipelines/earlier/home-8858f10.zip`` was made at that commit by ``vmoer run tests/pipelines/earlier/spec.yaml
--device cpu`` and packed without logs and locks. It has no checksums but those of its shards.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cli.listing import run_rows
from pipelines.experiment.check_home import check_home
from pipelines.jobs.client import list_jobs
from pipelines.jobs.inspections import workers
from pipelines.spec.model import load_spec
from pipelines.worker.foreground import compute
from store.catalog import find_manifest, list_manifests, write_manifest
from store.publish import publish
from store.reader import open_store
from store.verify import verify
from tests.pipelines.support import settings

EARLIER = Path(__file__).parent / "earlier"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with zipfile.ZipFile(EARLIER / "home-8858f10.zip") as packed:
        packed.extractall(tmp_path / "home")
    (tmp_path / "home" / "workers").mkdir(exist_ok=True)
    lock = {"pid": os.getpid(), "executor": "worker-elsewhere"}
    (tmp_path / "home" / "workers" / "cpu.lock").write_text(json.dumps(lock))
    return tmp_path / "home"


def test_an_earlier_home_is_read_checked_and_published_again(home: Path) -> None:
    here = settings(home)
    assert [*verify(home), *check_home(here)] == []
    assert [(job.status, job.name) for job in list_jobs(here)] == [("finished", "earlier")]
    assert workers(here) == [], "nobody holds the lock that was copied"
    with open_store(home) as store:
        before = store.query("SELECT * FROM predictions ORDER BY ALL")
    assert len(before) == 8
    for manifest in list_manifests(home):
        write_manifest(home, replace(manifest, model={**manifest.model, "source": "folder"}))
    assert {one.kind for one in verify(home)} <= {"unpublished"}
    publish(home)
    assert [*verify(home), *check_home(here)] == []
    with open_store(home) as store:
        assert store.query("SELECT * FROM predictions ORDER BY ALL").equals(before)


def test_the_same_spec_goes_beside_its_earlier_results_where_their_meaning_has_changed(home: Path) -> None:
    """KL weighted by tokens: another experiment, other routers; what was there stays as it was."""
    before = {one.run_id: one for one in list_manifests(home)}
    assert compute(load_spec(EARLIER / "spec.yaml"), [], settings(home), quiet=True)
    assert [*verify(home), *check_home(settings(home))] == []
    assert {run_id: find_manifest(home, run_id) for run_id in before} == before
    assert len(run_rows(home)) == 2 * len(before)
    assert len(list((home / "routers").iterdir())) == 2
