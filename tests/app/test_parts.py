"""The small pure parts: settings, server command, names of runs, pairs of runs, texts."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.comparison import paired_answers as pairs
from app.figures.auroc import score_label
from app.figures.verdict import verdict
from app.shared import runs as run_names
from app.shared.format import interval, is_percent, number
from app.shared.settings import SettingsError, load_settings
from app.shared.text import counted, plain, prose
from app.shared.token_strip import strip_html, visible
from app.views.calibration.baselines import in_words
from pipelines.errors import ServeError
from pipelines.serve.dashboard import MAIN, SERVER, base_path, check_port_free, streamlit_command
from pipelines.settings import Settings as ServeSettings

RUNS = pd.DataFrame(
    [
        ("m.det.none.1", "e1", "m", "deterministic", "none", "none", "finished", "2026-01-01"),
        ("m.fcvr.in-router.1", "e1", "m", "fcvr", "in-router", "none", "finished", "2026-01-01"),
        ("m.fcvr.in-router.untrained.1", "e1", "m", "fcvr", "in-router", "untrained", "finished", "2026-01-02"),
        ("m.fcvr.predictive.1", "e1", "m", "fcvr", "predictive", "none", "finished", "2026-01-03"),
        ("m.det.none.2", "e2", "m", "deterministic", "none", "none", "running", "2026-01-09"),
    ],
    columns=["run_id", "experiment", "model", "method", "estimator", "control", "status", "started_at"],
).assign(name="quick", synthetic=False)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"VMOER_HOME": "~/data", "VMOER_APP_MAX_RUNS": "3", "VMOER_APP_MAX_POINTS": ""}.items():
        monkeypatch.setenv(name, text)
    settings = load_settings()
    assert (settings.home, settings.max_runs, settings.max_points) == (Path.home() / "data", 3, 4000)


@pytest.mark.parametrize("text", ["0", "-1", "many", "nan", "inf", "2.5"])
@pytest.mark.parametrize("name", ["MAX_RUNS", "POLL_SECONDS"])
def test_a_setting_that_is_no_positive_number_is_refused_by_name(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VMOER_APP_{name}", text)
    if (name, text) == ("POLL_SECONDS", "2.5"):
        assert load_settings().poll_seconds == 2.5
        return
    with pytest.raises(SettingsError, match=f"VMOER_APP_{name} must be a positive .*number, not '{text}'"):
        load_settings()


def test_the_server_command_names_an_existing_script_and_stays_on_this_machine() -> None:
    command = streamlit_command(8600)
    assert Path(command[4]) == SERVER
    assert SERVER.is_file()
    assert "--server.address=127.0.0.1" in command
    assert "--browser.gatherUsageStats=false" in command


@pytest.mark.parametrize(("given", "path"), [("", ""), ("lab/vmoer", "lab/vmoer"), ("/lab/v.1_~-2/", "lab/v.1_~-2")])
def test_the_dashboard_is_served_below_a_path(given: str, path: str) -> None:
    assert base_path(ServeSettings(base_path=given)) == path
    assert f"--server.baseUrlPath={path}" in streamlit_command(path=path)


@pytest.mark.parametrize("given", ["a//b", "a b", "../x", "a/..", "http://x", "é", "a?b", "--flag/x;y"])
def test_a_path_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ServeError, match="is no path such as lab/vmoer"):
        base_path(ServeSettings(base_path=given))


def test_a_port_in_use_is_refused_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match="--port"):
            check_port_free(port)
    check_port_free(port)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_does_not_exist_is_refused(port: int) -> None:
    with pytest.raises(ServeError, match="65535"):
        check_port_free(port)


@pytest.mark.parametrize(
    "module", ["app.downloads.files", "app.shared.data", "app.views.layers.charts", "app.shared.page"]
)
def test_the_dashboard_never_imports_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    root = MAIN.parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_the_run_shown_first_is_a_finished_bayesian_one_and_no_control() -> None:
    assert run_names.default_run(RUNS) == "m.fcvr.in-router.1"


def test_without_a_finished_run_the_newest_is_shown() -> None:
    assert run_names.default_run(RUNS[RUNS["status"] == "running"]) == "m.det.none.2"
    assert run_names.default_run(RUNS[:0]) is None


def test_archives_come_after_what_was_computed_here_and_begin_with_the_largest_experiment_of_a_real_model() -> None:
    rows = [
        ("a.archived", "main", "real", "fcvr", False, "2026-01-02"),
        ("b.archived", "main", "real", "vtsr", False, "2026-01-03"),
        ("c.archived", "side", "real", "vtsr", False, "2026-01-09"),
        ("d.archived", "early", "real", "fcvr", False, "2026-01-01"),
        ("e.archived", "early", "real", "vtsr", False, "2026-01-06"),
        *((f"{name}.archived", "toy", "toy", "fcvr", True, "2026-01-09") for name in "fgh"),
    ]
    archived = pd.DataFrame(rows, columns=["run_id", "experiment", "model", "method", "synthetic", "started_at"])
    archived = archived.assign(estimator="in-router", control="none", status="finished", name="thesis")
    assert run_names.default_run(archived) == "a.archived", "the paper's method rather than the last of the ladder"
    both = run_names.shown_first(pd.concat([archived, RUNS], ignore_index=True))
    assert both["run_id"].iloc[0] == "m.det.none.2"
    assert both["experiment"].drop_duplicates().tolist() == ["e2", "e1", "main", "early", "side", "toy"]


def test_the_ladder_climbs_from_deterministic_to_bayesian_and_ends_with_controls() -> None:
    order = run_names.siblings(RUNS, "m.fcvr.predictive.1")["run_id"].tolist()
    assert order == ["m.det.none.1", "m.fcvr.in-router.1", "m.fcvr.predictive.1", "m.fcvr.in-router.untrained.1"]


def test_a_baseline_is_called_by_its_control_where_that_is_enough() -> None:
    family = run_names.records(RUNS[RUNS["experiment"] == "e1"])
    assert run_names.baseline_names(family)[2] == "untrained heads"
    twice = [*family, {**family[2], "estimator": "predictive"}]
    assert run_names.baseline_names(twice)[2] == "fcvr · in-router · untrained heads"


def test_what_a_run_is_better_than_is_named_with_its_interval_and_the_rest_counted() -> None:
    rows = pd.DataFrame(
        [("ece", "map", "second run better", "−1 [−2, −1]"), ("nll", "map", "second run worse", "+1 [1, 2]")]
        + [("ece", f"b{number}", "no clear difference", "0 [−1, 1]") for number in range(4)]
        + [("nll", "b0", "no clear difference", "0 [−1, 1]")],
        columns=["metric", "against", "verdict", "text"],
    )
    assert in_words(rows).split("\n") == [
        "- **ECE** ▲ better than map (−1 [−2, −1]); ● no clear difference from the other 4.",
        "- **NLL, nats** ▼ worse than map (+1 [1, 2]); ● no clear difference from b0.",
    ]


def test_no_two_runs_have_the_same_name() -> None:
    labels = run_names.labels(RUNS)
    assert labels["m.det.none.1"] == "m · deterministic · 1"
    assert labels["m.fcvr.predictive.1"] == "m · fcvr · predictive"
    row = RUNS.set_index("run_id", drop=False).loc["m.det.none.1"]
    ids = ["m.det.none.1", "m.det.none.1.archived", "m.det.none.7.archived", "m.det.none.8.archived"]
    names = ["quick", "quick (archived 2026-01-01, abc)", "quick (archived 2026-01-01, abc)", "full (archived 2026, d)"]
    runs = pd.DataFrame([{**row, "run_id": one, "name": name} for one, name in zip(ids, names, strict=True)])
    same = "m · deterministic · quick"
    assert list(run_names.labels(runs).values()) == [
        f"{same} · 1",
        f"{same} · 1 archived",
        f"{same} · 7 archived",
        "m · deterministic · full",
    ]


def test_differences_stand_in_the_order_of_the_sets_and_are_told_by_direction() -> None:
    rows = [("far", "ece", -0.2, -0.1, "lower"), ("id", "ece", 0.1, 0.2, "lower"), ("id", "accuracy", -1, 1, "higher")]
    frame = pd.DataFrame(rows, columns=["dataset", "metric", "ci_low", "ci_high", "direction"])
    found = pairs.with_verdicts(frame, ["id", "far"])
    assert found["dataset"].tolist() == ["id", "id", "far"]
    assert found["verdict"].tolist() == ["second run worse", "no clear difference", "second run better"]
    titles = {"accuracy": "accuracy", "ece": "ECE"}
    assert pairs.in_words(found, titles) == (
        "The second run is better in ECE on far. The second run is worse in ECE on id"
    )
    assert pairs.in_words(found[found["metric"] == "accuracy"], titles) == "No interval excludes zero"


@pytest.mark.parametrize(
    ("score", "position", "aggregation", "label"),
    [
        ("logit_variance", "final_prompt_token", "mean_layers", "logit variance (last token)"),
        ("one_minus_max_prob", "answer", "none", "1 − largest probability"),
        ("gate_entropy", "prompt_mean", "max_layers", "gate entropy (prompt mean, max_layers)"),
    ],
)
def test_a_score_is_called_by_words_and_where_it_was_read(
    score: str, position: str, aggregation: str, label: str
) -> None:
    assert score_label(score, position, aggregation) == label


def test_flips_count_every_outcome_of_every_data_set() -> None:
    frame = pd.DataFrame({"dataset": ["a", "a", "b"], "outcome": ["both right", "wrong → right", "both wrong"]})
    found = pairs.flip_counts(frame)
    assert found.groupby("dataset")["count"].sum().to_dict() == {"a": 2, "b": 1}
    assert len(found) == 8


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (True, True, "both right"),
        (False, True, "wrong → right"),
        (True, False, "right → wrong"),
        (False, False, "both wrong"),
    ],
)
def test_an_outcome_reads_from_first_to_second(first: bool, second: bool, expected: str) -> None:
    assert pairs.outcome(first, second) == expected


@pytest.mark.parametrize(
    ("low", "high", "direction", "expected"),
    [
        (0.01, 0.1, "higher", "second run better"),
        (0.01, 0.1, "lower", "second run worse"),
        (-0.1, -0.01, "lower", "second run better"),
        (-0.1, 0.1, "lower", "no clear difference"),
        (None, None, "higher", "no clear difference"),
        (float("nan"), 0.1, "higher", "no clear difference"),
    ],
)
def test_a_difference_is_clear_only_outside_zero(
    low: float | None, high: float | None, direction: str, expected: str
) -> None:
    assert verdict(low, high, direction) == expected


def test_differences_computed_on_a_page_are_second_minus_first() -> None:
    probs_a, probs_b = [[0.4, 0.6]] * 60, [[0.9, 0.1]] * 60
    frame = pd.DataFrame({"dataset": "a", "probs_a": probs_a, "probs_b": probs_b, "answer_index": 0})
    found = pairs.computed_differences(frame, 200).set_index("metric")
    assert found.loc["accuracy", "difference"] == pytest.approx(1.0)
    assert found.loc["nll", "difference"] < 0
    assert set(found.index) == set(pairs.DIFFERENCES)


@given(st.sets(st.integers(0, 63), min_size=1, max_size=8), st.sets(st.integers(0, 63), min_size=1, max_size=8))
def test_gained_and_lost_experts_turn_one_set_into_the_other(first: set[int], second: set[int]) -> None:
    gained, lost = pairs.experts_changed(sorted(first), sorted(second))
    assert (first | set(gained)) - set(lost) == second


def test_a_partial_intersection_says_its_counts() -> None:
    assert "same 5" in pairs.shared_note(5, 5, 5)
    note = pairs.shared_note(8, 5, 4)
    assert all(count in note for count in ("4", "8", "5"))


def test_numbers_are_percent_on_screen_and_missing_ones_a_dash() -> None:
    assert interval(0.123, 0.1, 0.15, percent=True) == "12.3 % [10.0, 15.0]"
    assert interval(0.5, None, float("nan")) == "0.500"
    assert number(None) == "–"
    assert number(-0.02, percent=True, signed=True) == "−2.0 pp"
    assert is_percent("ece_ts")
    assert not is_percent("nll")


@given(st.text(alphabet=st.sampled_from("ab ![]()<>:`$*_{}#+-.|~&=^\\\n")))
def test_outside_text_holds_no_active_markdown(text: str) -> None:
    shown = plain(text)
    rest = re.sub(r"\\(.)", "", shown)
    assert not set(rest) & set("![]()<>:`$*_{}#|~&=^\\\n")
    assert re.sub(r"\\(.)", r"\1", shown) == " ".join(text.split())


def test_tokens_stay_text() -> None:
    shown = strip_html(["<b>cat</b>", '"'], [0.5, 2.0], ['"><script>', "t"], 0)
    assert "<b>" not in shown
    assert "<script>" not in shown
    assert "&lt;b&gt;cat&lt;/b&gt;" in shown


def test_white_space_in_tokens_is_visible() -> None:
    assert visible("Ġcat") == " cat"
    assert visible("\n\t") == "⏎⇥"
    assert visible("") == "∅"
    assert visible(None, 7) == "#7"


def test_job_progress_says_stage_count_rate_and_time_left() -> None:
    from app.shared.job_strip import progress_text

    job = SimpleNamespace(stage="trace", done=50, total=200, rate=2.5, eta_seconds=61, message="")
    assert progress_text(job) == "trace · 50 of 200 · 2.5/s · 1 min 1 s left"


@pytest.mark.parametrize("cell", [None, pd.NA, float("nan"), []])
def test_an_absent_list_is_an_empty_one(cell: object) -> None:
    assert run_names.as_list(cell) == []


def test_a_list_cell_is_a_list_however_it_was_read() -> None:
    stored = pd.Series([["a", "b"], None]).astype("object")
    assert run_names.as_list(stored[0]) == ["a", "b"]
    assert run_names.as_list(pd.Series([1, 2]).to_numpy()) == [1, 2]


def test_commands_in_messages_are_code_and_nothing_else_is_markup() -> None:
    assert prose("its worker is gone; start `vmoer worker`") == "its worker is gone; start `vmoer worker`"
    assert prose("`a` ![x](y) `b`") == f"`a` {plain('![x](y)')} `b`"
    assert prose("one ` alone *x*") == plain("one ` alone *x*")


def test_one_thing_is_counted_in_the_singular() -> None:
    assert [counted(number, "entry", "entries") for number in (0, 1, 2000)] == ["0 entries", "1 entry", "2,000 entries"]
