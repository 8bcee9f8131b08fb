"""``vmoer reproduce``: what it says before it computes anything, and a whole suite on few questions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.cli.app import run
from pipelines.preparation.train import LOG, missing_parts
from pipelines.reproduce.estimate import estimate
from pipelines.reproduce.suite import load_suite, plan
from pipelines.session.inputs import Inputs
from pipelines.session.session import Session
from store.reader import open_store
from tests.pipelines.support import settings, vmoer
from vmoer.forward.hooks import tap_of


def test_estimate_counts_what_is_still_to_be_trained(tmp_path: Path) -> None:
    home = settings(tmp_path / "home")
    planned, _ = plan(load_suite("thesis", home), "full", "worldfacts-moe", ["worldfacts"], 4, 2, ["main", "controls"])
    main, controls = (Inputs(item.spec, [], home) for item in planned)
    wanted = missing_parts(main)
    # a part for the adapter and the MAP routers, and one for each method with parameters; β = 0 is the controls' own
    assert len(wanted) == 2 + 8
    assert len({*missing_parts(controls), *wanted}) == len(wanted) + 1
    before = estimate(planned, [], home)
    assert 0 < before.training < before.seconds
    assert "of them training" in before.sentence()
    assert before.memory > 2**28
    assert not tap_of(Session(main).resident.model).shifts, "the pass that was measured leaves nothing behind"
    adapter = main.parts.adapter()
    assert adapter is not None
    adapter.mkdir(parents=True)
    (adapter / LOG).write_text("{}")
    assert len(missing_parts(main)) == len(wanted) - 1


def test_suite_runs_from_one_command(tmp_path: Path) -> None:
    asked = ["reproduce", "thesis", "--quick", "--model", "worldfacts-moe", "--sets", "worldfacts", "--questions", "10"]
    only = ["--only", "main", "--output", str(tmp_path / "documents"), "--device", "cpu"]
    done = vmoer(tmp_path / "home", *asked, *only)
    assert done.returncode == 0, done.stderr
    assert re.match(r"2 runs, \d+ answers: about \d+ minutes", done.stderr)  # before anything is computed
    document = (tmp_path / "documents" / "thesis-worldfacts-moe-quick.md").read_text()
    assert "| calibration error −94 %" in document
    assert re.search(r"\| worldfacts \| fcvr in-router \| [\d.]+ \|", document)
    with open_store(tmp_path / "home") as store:
        runs = store.query("SELECT status FROM runs")
    assert runs["status"].tolist() == ["finished", "finished"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--form", "huge"], "no form 'huge' in suite thesis; there are quick, laptop, gpu, full"),
        (["--sets", "nothing"], "no question set 'nothing' in suite thesis"),
        (["--sets", "nothing", "--sets", "sciq"], "no question set 'nothing' in suite thesis"),
        (["--only", "nothing", "--only", "main"], "no experiment 'nothing'"),
        (["--sets", "sciq", "--data", "nowhere"], "no question set is left"),
        (["--questions", "6"], "'--questions': Input should be greater than or equal to 10"),
    ],
)
def test_what_is_not_there_is_said(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VMOER_HOME", str(tmp_path / "home"))
    assert run(["reproduce", "thesis", "--model", "worldfacts-moe", *arguments]) == 2
    assert sentence in capsys.readouterr().err
