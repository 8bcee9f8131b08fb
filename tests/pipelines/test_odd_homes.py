"""Data folders whose paths hold what shells, URLs and SQL give a meaning to: they are used as they are, or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.errors import PipelineError
from pipelines.jobs.client import list_jobs
from pipelines.jobs.database import connect
from pipelines.settings import Settings, load_settings
from pipelines.worker.foreground import compute
from store.archive import read_archive, write_archive
from store.export import export_table
from store.reader import open_store
from store.retention import remove_runs
from store.verify import verify
from tests.pipelines.support import settings, small_spec

ODD = ["a b", "a#b", "a%41b", "a%20b", "a&b", "a+b", "a=b", "a'b", 'a"b', "aéb", "a;b", "a:b", "a@b", "$HOME", "`id`"]


@pytest.mark.parametrize("name", ODD)
def test_the_job_database_is_made_in_the_folder_that_was_named(tmp_path: Path, name: str) -> None:
    with connect(Settings(home=tmp_path / name)) as client:
        assert client.list_workflows(limit=1) == []
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "jobs.sqlite").is_file()


def test_an_experiment_at_an_odd_path_behind_a_link(tmp_path: Path) -> None:
    """Computed, read, exported, archived, removed and taken in again; and the folder copied elsewhere."""
    real = tmp_path / "ödd 'q' \"d\" %41 #x & + = ,;$HOME"
    real.mkdir()
    home = tmp_path / "link"
    home.symlink_to(real)
    compute(small_spec(controls=[], methods=["deterministic"], stages=["evaluate"]), [], settings(home), quiet=True)
    assert verify(home) == []
    with open_store(home) as store:
        (run_id,) = store.query("SELECT run_id FROM runs")["run_id"]
        for form in ("csv", "parquet", "json", "latex", "duckdb"):
            export_table(store, run_id, "predictions", form, tmp_path / f"out.{form}")
    (tmp_path / "scratch").mkdir()
    write_archive(home, [run_id], tmp_path / "a.zip", tmp_path / "scratch", {})
    copied = tmp_path / "copied"
    shutil.copytree(real, copied)
    remove_runs(home, [run_id])
    read_archive(tmp_path / "a.zip", home)
    assert verify(home) == []
    assert verify(copied) == []
    assert [job.status for job in list_jobs(settings(copied))] == ["finished"]


def test_a_question_mark_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMOER_HOME", "/data/what?")
    with pytest.raises(PipelineError, match="holds a question mark"):
        load_settings()
