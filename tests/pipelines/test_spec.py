"""The spec: what it accepts, the sentence for everything it refuses, and the identity of what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import PipelineError, SpecError
from pipelines.settings import Settings, load_settings
from pipelines.spec.model import Spec, load_spec, parse_spec, resolve_path
from pipelines.spec.runs import expand
from pipelines.spec.yamlfile import read_mapping

TRAINING = {
    "data": {"name": "worldfacts", "split": "train"},
    "validation": {"name": "worldfacts", "split": "validation"},
}
MINIMAL = {"model": "worldfacts-moe", "data": {"id": {"name": "worldfacts", "split": "test"}}}
GOOD = """
model: smollm2-moe
methods: [deterministic, fcvr]
layers: leverage:8
estimators: [in-router, predictive]
samples: 35
routers: shipped
data:
  id:   {path: sciq_test.parquet, limit: 200}
  near: [{path: arc_easy_test.parquet, limit: 200}]
  far:  [{name: worldfacts, split: far-ood}]
scoring: likelihood
stages: [trace, susceptibility, leverage, evaluate, ood]
seed: 0
"""


def spec(**changes: object) -> Spec:
    return parse_spec({**MINIMAL, **changes})


def outcome(values: dict[str, object]) -> str:
    """The identity of a spec, or the sentence that refuses it."""
    try:
        return parse_spec(values).experiment
    except SpecError as error:
        return str(error)


def test_documented_example_is_a_spec() -> None:
    parsed = parse_spec(read_mapping(GOOD))
    assert parsed.data.near[0].limit == 200
    assert parsed.controls == ["untrained", "own-mean", "prior-covariance", "non-routing-noise"]
    assert parsed.noise.gammas == [0.001, 0.01, 0.02, 0.05, 0.1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file is empty"),
        ("- a", "the file is a list"),
        ("just text", "the file is a str"),
        ("model: [", "line 1: not valid YAML"),
        ("model: m\nmodel: k", "line 2: key 'model' is given twice"),
        ("a: &x [1]\nb: [*x, *x]", "line 2: aliases (*x) are not allowed"),
        ("model: !!python/object/apply:os.system [id]", "line 1: not valid YAML"),
        ("1: 2", "line 1: key '1' must be plain text"),
        ("? [a, b]\n: c", "must be plain text"),
        ("a: 2020-13-45", "not valid YAML (month must be in 1..12)"),
        ("[" * 5000, "nested too deeply"),
        ("model: \x00", "not valid YAML"),
    ],
)
def test_malformed_yaml_gets_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_mapping(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sampels": 3}, "sampels: unknown key; did you mean 'samples'?"),
        ({"data": {"id": {"pth": "x"}}}, "data.id.pth: unknown key; did you mean 'path'?"),
        ({"data": {"id": {"path": "x"}, "near": [{"path": "y", "limits": 3}]}}, "data.near[0].limits: unknown key"),
        ({"zzzzzz": 3}, "zzzzzz: unknown key; known keys here: name, model"),
        ({"samples": 0}, "samples: must be greater than or equal to 1 (found 0)"),
        ({"samples": 10**9}, "samples: must be less than or equal to 1000"),
        ({"samples": "35"}, "samples: must be a whole number (found '35')"),
        ({"samples": True}, "samples: must be a whole number"),
        ({"samples": 3.5}, "samples: must be a whole number"),
        ({"seed": -1}, "seed: must be greater than or equal to 0"),
        ({"methods": "fcvr"}, "methods: must be a list"),
        ({"methods": []}, "methods: list should have at least 1 item"),
        ({"methods": ["fcvr", "fcvr"]}, "methods: 'fcvr' is listed twice"),
        ({"methods": ["fc vr; rm"]}, "methods[0]: has characters that are not allowed here"),
        ({"layers": [1, 1]}, "layers: a layer is listed twice"),
        ({"layers": [-1]}, "layers: layers are block indices from 0"),
        ({"layers": "last:0"}, "layers: 'last:0' is no layer selection"),
        ({"layers": {}}, "layers: not a layer selection"),
        (
            {"estimators": ["both"]},
            "estimators[0]: must be one of 'in-router', 'closed-form' or 'predictive' (found 'both')",
        ),
        ({"stages": ["ood"]}, "stage ood ranks answers, so add evaluate"),
        ({"leverage": {"draws": 2}}, "leverage.draws: must be greater than or equal to 3"),
        ({"noise": {"gammas": [float("nan")]}}, "noise.gammas[0]"),
        ({"noise": {"gammas": [float("inf")]}}, "noise.gammas[0]"),
        ({"routers": {}}, "routers: give `shipped`, a folder"),
        ({"routers": {"train": {"dat": 1}}}, "routers.train.dat: unknown key; did you mean 'data'?"),
        ({"options": {"mfvr": {}}}, "options are given for 'mfvr', which is not among `methods`"),
        ({"data": {"id": {}}}, "data.id: give exactly one of path, name or hub (found none)"),
        (
            {"data": {"id": {"path": "a", "hub": "b"}}},
            "data.id: give exactly one of path, name or hub (found path, hub)",
        ),
        ({"data": {"id": {"path": "a", "limit": 0}}}, "data.id.limit: must be greater than or equal to 1"),
        ({"data": {"id": {"path": "a", "where": {"answer": "1"}}}}, "data.id: `where` filters on subject or source"),
        ({"data": {"id": {"path": "a", "as": "../x"}}}, "data.id.as: has characters that are not allowed here"),
        ({"model": "a\x1b[31mb"}, "model: has characters that are not allowed here"),
        ({"name": "../../etc"}, "name: has characters that are not allowed here"),
    ],
)
def test_bad_value_is_refused_by_its_key_path(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec(**changes)
    assert sentence in str(caught.value)
    assert str(caught.value).isprintable()


def test_missing_key_is_named() -> None:
    with pytest.raises(SpecError, match=r"^data: required key is missing"):
        parse_spec({"model": "m"})


def test_same_spec_written_differently_has_the_same_identity() -> None:
    reordered = yaml.safe_dump(dict(reversed(list(yaml.safe_load(GOOD).items()))))
    assert parse_spec(read_mapping(GOOD)).experiment == parse_spec(read_mapping(reordered)).experiment
    assert spec().experiment == spec(samples=35, seed=0).experiment


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"samples": 34}, {"name": "other"}, {"store_text": True}, {"predictive_positions": "scored"}],
)
def test_any_change_changes_the_identity(changes: dict[str, object]) -> None:
    assert spec(**changes).experiment != spec().experiment


def test_a_field_that_came_later_leaves_older_identities_alone() -> None:
    assert "predictive_positions" not in spec().canonical()
    assert spec(predictive_positions="all").experiment == spec().experiment


def test_runs_begin_with_the_baseline_and_carry_both_controls() -> None:
    runs = expand(spec(methods=["fcvr"], estimators=["in-router", "predictive"]))
    kinds = [(run.method, run.estimator, run.control) for run in runs]
    assert kinds == [
        ("deterministic", "none", "none"),
        ("fcvr", "predictive", "non-routing-noise"),
        ("fcvr", "in-router", "own-mean"),
        ("fcvr", "in-router", "untrained"),
        ("fcvr", "in-router", "prior-covariance"),
        ("fcvr", "in-router", "none"),
        ("fcvr", "predictive", "untrained"),
        ("fcvr", "predictive", "prior-covariance"),
        ("fcvr", "predictive", "none"),
    ]
    assert [run.samples for run in runs] == [1, 8, 1, 35, 35, 35, 8, 8, 8]
    assert len({run.run_id for run in runs}) == len(runs)


def test_a_head_control_that_would_repeat_a_row_is_left_out() -> None:
    controls = ["untrained", "beta-zero", "own-mean", "prior-covariance"]
    given = expand(spec(methods=["temperature", "mcdr", "vtsr", "mfvr"], controls=controls))
    found = {(run.method, run.control) for run in given if not run.deterministic}
    none = {(name, "none") for name in ("temperature", "mcdr", "vtsr", "mfvr")}
    mean = {(name, "own-mean") for name in ("mcdr", "vtsr", "mfvr")}
    vtsr, mfvr = {("vtsr", name) for name in controls[:2]}, {("mfvr", name) for name in controls}
    assert found == none | mean | {("mcdr", "untrained")} | vtsr | mfvr
    assert [run.samples for run in given if run.control == "own-mean"] == [1, 1, 1]
    untrained = expand(spec(methods=["mfvr"], controls=controls, routers="untrained"))
    assert {run.control for run in untrained} == {"none", "untrained", "beta-zero"}


def test_a_spec_that_means_something_else_than_before_has_another_id(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {
        "kl-by-tokens": spec(methods=["fcvr"], controls=[], routers={"train": TRAINING}),
        "temperature-in-spread": spec(methods=["vtsr"], controls=[]),
        "noise-around-own-mean": spec(methods=["fcvr"], controls=["moe-noise"]),
    }
    same = [spec(methods=["fcvr"], controls=[]), spec(methods=["deterministic"])]
    now = [one.experiment for one in [*changed.values(), *same]]
    assert [one.revisions for one in changed.values()] == [[name] for name in changed]
    monkeypatch.setattr(Spec, "revisions", [])
    before = [one.experiment for one in [*changed.values(), *same]]
    assert [old == new for old, new in zip(before, now, strict=True)] == [False] * 3 + [True] * 2


def test_the_closed_form_takes_no_samples() -> None:
    runs = expand(spec(methods=["fcvr"], estimators=["closed-form"], controls=[]))
    assert [(run.estimator, run.samples) for run in runs] == [("none", 1), ("closed-form", 1)]


def test_a_run_comes_after_everything_it_is_compared_with() -> None:
    seen: list[str] = []
    for run in expand(spec(methods=["mfvr", "fcvr"], estimators=["predictive", "in-router"])):
        assert set(run.compare_with) <= set(seen)
        assert (run.compare_with == ()) == (run.method == "deterministic")
        seen.append(run.run_id)


def test_run_ids_are_deterministic_safe_and_say_what_they_are() -> None:
    first = expand(spec(model="/models/My Model (v2)", methods=["fcvr"]))
    assert [run.run_id for run in first] == [
        run.run_id for run in expand(spec(model="/models/My Model (v2)", methods=["fcvr"]))
    ]
    assert first[3].run_id.startswith("my-model-v2.fcvr.in-router.untrained.")
    for run in first:
        assert set(run.run_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_value_of_any_key_escapes_as_another_error(value: object) -> None:
    for key in Spec.model_fields:
        first, second = outcome({**MINIMAL, key: value}), outcome({**MINIMAL, key: value})
        assert first == second
        assert "\n" not in first


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_text_escapes_as_another_error(text: str | bytes) -> None:
    try:
        values = read_mapping(text)
    except SpecError as error:
        message = str(error)
    else:
        message = outcome(values)
    assert "\n" not in message


@pytest.mark.parametrize("name", ["no-such.yaml", "."])
def test_unreadable_spec_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError):
        load_spec(tmp_path / name)


def test_oversized_spec_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_text("# " + "x" * 300_000)
    with pytest.raises(SpecError, match="larger than 262144 bytes"):
        load_spec(tmp_path / "big.yaml")


def test_relative_path_means_the_spec_folder_first_then_the_working_directory(tmp_path: Path) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    beside.mkdir()
    here.mkdir()
    places = [str(beside), str(here)]
    (here / "data.parquet").touch()
    assert resolve_path("data.parquet", places) == here / "data.parquet"
    (beside / "data.parquet").touch()
    assert resolve_path("data.parquet", places) == beside / "data.parquet"


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        ("VMOER_PORT", "x", "VMOER_PORT='x' is not a number; unset it or give one"),
        ("VMOER_PORT", "1.5", "VMOER_PORT='1.5' is not a number; unset it or give one"),
        ("VMOER_PORT", "0", "VMOER_PORT='0' must be greater than zero"),
        ("VMOER_QUOTA_GB", "0", "VMOER_QUOTA_GB='0' must be greater than zero"),
        ("VMOER_LIVE_SECONDS", "inf", "VMOER_LIVE_SECONDS='inf' must be greater than zero"),
    ],
)
def test_malformed_setting_is_refused_by_its_variable(
    variable: str, text: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(PipelineError) as refused:
        load_settings()
    assert str(refused.value) == sentence


def test_settings_are_defaults_overridden_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("VMOER_")]:
        monkeypatch.delenv(name)
    nothing_set = load_settings()
    assert nothing_set == replace(Settings(), home=tmp_path / "vmoer-data", cache=Path.home() / ".cache" / "vmoer")
    monkeypatch.setenv("VMOER_HOME", "  ")
    monkeypatch.setenv("VMOER_PORT", " 9000 ")
    monkeypatch.setenv("VMOER_MIN_FREE_MB", "0.5")
    monkeypatch.setenv("VMOER_ALLOWED_HOSTS", "a.example, b.example,")
    monkeypatch.setenv("VMOER_USERS", "unknown names are ignored")
    found = load_settings()
    assert found == replace(nothing_set, port=9000, min_free_mb=0.5, hosts="a.example, b.example,")
    assert found.allowed_hosts == ("a.example", "b.example")
    assert Settings(port=1) == replace(Settings(), port=1), "only load_settings looks at the environment"


def test_client_modules_need_neither_torch_nor_streamlit() -> None:
    code = (
        "import sys, pipelines.spec.model, pipelines.data.questions, pipelines.jobs.client, pipelines.settings;"
        "import pipelines.cli.app;"
        "print([m for m in ('torch', 'transformers', 'streamlit') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
