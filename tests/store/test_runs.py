"""``open_runs``: what a notebook reads is what the store holds, and nothing is written."""

from __future__ import annotations

import pandas as pd
import pytest

import vmoer
from store.errors import NotFoundError, StoreError
from store.runs import Runs, open_runs
from tests.store.conftest import DET, FCVR


@pytest.fixture
def runs(built) -> Runs:
    return open_runs(built)


def test_runs_and_their_tables_are_what_the_store_holds(runs: Runs) -> None:
    assert set(runs.runs()["run_id"]) == {DET, FCVR}
    for table in ("predictions", "routing", "metrics"):
        stored = runs.store.query(f'SELECT * FROM "{table}" WHERE run_id = ? ORDER BY ALL', [FCVR])  # noqa: S608
        mine = runs.frame(FCVR, table)
        assert len(mine) == len(stored) > 0
        assert set(mine["run_id"]) == {FCVR}
        assert runs.run(FCVR).frame(table).equals(mine)
    both = runs.frame([DET, FCVR], "predictions")
    counted = runs.sql("SELECT run_id, count(*) AS n FROM predictions GROUP BY run_id ORDER BY run_id")
    assert counted["n"].tolist() == both.groupby("run_id").size().tolist()
    assert runs.sql("SELECT count(*) AS n FROM runs WHERE run_id = $run", {"run": DET})["n"].tolist() == [1]


def test_the_library_opens_them(built) -> None:
    assert isinstance(vmoer.open_runs(built), Runs)


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM runs",
        "CREATE TABLE x (a INT)",
        "COPY runs TO 'x.csv'",
        "SELECT 1; SELECT 2",
        "ATTACH 'x'",
        "",
        "SELEC",
    ],
)
def test_sql_reads_and_does_nothing_else(runs: Runs, query: str) -> None:
    with pytest.raises(StoreError, match=r"takes one SELECT|the query failed"):
        runs.sql(query)


def test_sql_reads_no_other_file(runs: Runs, tmp_path) -> None:
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "x.csv")
    with pytest.raises(StoreError):
        runs.sql("SELECT * FROM read_csv(?)", [str(tmp_path / "x.csv")])


def test_what_is_not_there_is_named(runs: Runs, tmp_path) -> None:
    with pytest.raises(NotFoundError, match="there is no run 'nobody'"):
        runs.frame("nobody", "metrics")
    with pytest.raises(NotFoundError, match="there is no run 'nobody'"):
        runs.run("nobody")
    with pytest.raises(StoreError, match="nothing"):
        runs.frame(FCVR, "nothing")
    with pytest.raises(NotFoundError, match="table models has no rows of single runs"):
        runs.frame(FCVR, "models")
    with pytest.raises(StoreError, match="no results yet"):
        open_runs(tmp_path / "empty")


def test_a_notebook_shows_runs_escaped(runs: Runs) -> None:
    assert FCVR in runs._repr_html_()
    run = runs.run(FCVR)
    run.facts = run.facts.copy()
    run.facts["model"] = "<script>"
    assert "&lt;script&gt;" in run._repr_html_()
    assert "<script>" not in run._repr_html_()
