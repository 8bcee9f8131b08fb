"""The command line: exit codes, one sentence for everything wrong, JSON that parses, documentation in step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipelines.cli import app as cli
from pipelines.cli import reference as clidocs
from pipelines.cli.app import run
from pipelines.cli.root import names
from pipelines.cli.table import COMMANDS
from pipelines.console import clean
from tests.pipelines.support import vmoer

ROOT = Path(__file__).parents[2]
BASE = "model: worldfacts-moe\ndata: {id: {name: worldfacts, split: test, limit: 3}}\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VMOER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_documentation_is_what_the_code_says() -> None:
    page = ROOT / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == clidocs.markdown(), "make it again by python -m pipelines.cli.reference"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run"], "Missing argument 'spec_file'"),
        (["run", "nowhere.yaml"], "no spec file at nowhere.yaml"),
        (["jobs", "cancel", "20260101-0"], "no job '20260101-0'"),
        (["jobs", "logs", "../../etc/passwd"], "no job '../../etc/passwd'"),
        (["export", "x", "metrics", "--output", "o.csv"], "there are no results yet"),
        (["verify"], "there are no results yet"),
        (["datasets", "nowhere.parquet"], "no question set at nowhere.parquet"),
        (["models", "get", "smollm3"], "Unknown model 'smollm3'. Did you mean 'smollm2-moe'?"),
        (["bench", "speed"], "no benchmark 'speed'"),
        (["serve", "--address", "0.0.0.0"], "0.0.0.0 can be reached from other machines"),  # noqa: S104
        (["inspect", "hello", "--model", "nowhere"], "Unknown model 'nowhere'"),
        (["inspect", "\ud800"], "lone surrogate"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not home.exists(), "a refused command leaves no data folder behind"


def test_an_option_given_again_adds_up_or_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    adding = set()
    for name, command in clidocs.leaves(cli.command_tree(), "vmoer"):
        for option in (parameter for parameter in command.params if parameter.param_type_name == "option"):
            words = [option.opts[0], *([] if option.is_flag else ["x"])]
            if option.multiple:
                adding.add((name, option.name))
            elif not option.is_flag or option.secondary_opts:
                assert run([*name.split()[1:], *words, *words]) == 2
                assert f"{option.opts[0]} can be given once, not 2 times" in capsys.readouterr().err
    assert adding == {("vmoer reproduce", "sets"), ("vmoer reproduce", "only")}
    assert run(["serve", "--worker", "--no-worker"]) == 2
    assert "--worker can be given once" in capsys.readouterr().err
    assert run(["runs", "--json", "--json", "--help"]) == 0, "a flag means the same each time"
    assert names(["a, b", "c,"]) == ["a", "b", "c"]


@pytest.mark.parametrize("arguments", [[], ["models"]])
def test_without_a_command_the_help_is_shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("Usage: ")
    assert "\n  list " in error if arguments else "\n  reproduce " in error


def test_every_command_of_the_table_loads_and_its_line_of_help_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    lines = capsys.readouterr().out.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS) == list(cli.command_tree().commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("arguments", ["--help", "runs", "jobs", "run --help", "datasets --help", "export --help"])
def test_a_command_that_computes_nothing_loads_no_torch(arguments: str, home: Path) -> None:
    call = f"run({arguments.split()!r})"
    code = f"import sys; from pipelines.cli.app import run; {call}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize("arguments", [["runs"], ["jobs"], ["jobs", "list"]])
def test_lists_are_empty_json_before_anything_was_computed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_built_in_question_sets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["datasets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"test", "near-ood", "far-ood"} <= {row["dataset"] for row in rows}
    assert sum(row["n"] for row in rows) >= 3000


def test_taken_port_is_refused_by_number(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["serve", "--port", str(port)]) == 2
    assert f"Port {port} on 127.0.0.1 cannot be used" in capsys.readouterr().err


def test_terminal_escapes_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert clean("a\x1b[31mb\u202ec\nd") == "a?[31mb?c?d"
    run(["jobs", "cancel", "\x1b]0;owned\x07"])
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.slow
def test_runs_are_a_list_a_script_can_use(undisturbed: Path) -> None:
    rows = json.loads(vmoer(undisturbed, "runs", "--json").stdout)
    assert [(row["method"], row["estimator"], row["control"]) for row in rows] == [
        ("deterministic", "none", "none"),
        ("mfvr", "predictive", "none"),
        ("mfvr", "predictive", "non-routing-noise"),
    ]
    for row in rows:
        assert row["status"] == "finished"
        assert row["datasets"] == ["test", "far-ood"]
        assert row["model"] == "worldfacts-moe"


@pytest.mark.slow
def test_export_holds_what_the_store_holds(undisturbed: Path, tmp_path: Path) -> None:
    run_id = json.loads(vmoer(undisturbed, "runs", "--json").stdout)[0]["run_id"]
    output = tmp_path / "predictions.csv"
    done = vmoer(undisturbed, "export", run_id, "predictions", "--format", "csv", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(output)) == 24


@pytest.mark.slow
def test_inspect_prints_one_row_per_token_and_layer(tmp_path: Path) -> None:
    done: subprocess.CompletedProcess[str] = vmoer(tmp_path, "inspect", "Question: Where is Paris?", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["layer"] for row in rows[:4]] == [0, 1, 0, 1]
    assert all(row["experts"] == row["native_experts"] for row in rows)


@pytest.mark.slow
def test_inspect_shows_the_prompt_with_its_token_ids_and_computes_nothing(tmp_path: Path) -> None:
    asked = ("inspect", "Question: Where is Paris?\nAnswer:", "--show-prompt")
    shown = json.loads(vmoer(tmp_path, *asked, "--json").stdout)
    assert shown["text"] == asked[1]
    assert "".join(shown["tokens"]) == asked[1]
    assert len(shown["token_ids"]) == len(shown["tokens"])
    printed = vmoer(tmp_path, *asked).stdout.splitlines()
    assert printed[:2] == ["Question: Where is Paris?", "Answer:"]
    assert [line.split()[1] for line in printed[3:]] == [str(token) for token in shown["token_ids"]]
