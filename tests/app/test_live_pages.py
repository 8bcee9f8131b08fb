"""Inspect and Jobs without data, without a worker, with hostile links and forms; with a worker see tests/e2e."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlencode

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from app.pages import path_of
from app.shared.data import open_data
from app.views.inspect.form import kept_spec
from app.views.jobs.form import scale_of
from pipelines.data.prompt_files import read_upload
from pipelines.jobs import client as jobs
from pipelines.jobs import inspections as live
from pipelines.settings import Settings
from pipelines.spec.model import parse_spec
from tests.app.opening import app_at
from tests.app.test_pages import said
from tests.store.factory import make_store, run_id


def open_page(monkeypatch: pytest.MonkeyPatch, home: Path, page: str, link: dict[str, str] | None = None) -> AppTest:
    monkeypatch.setenv("VMOER_HOME", str(home))
    app = app_at(page)
    for name, value in (link or {}).items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def test_inspect_without_a_worker_says_so_and_shows_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(monkeypatch, tmp_path / "nothing", "inspect")
    words = said(app).replace("\\", "")
    assert "no worker" in words
    assert "up to 16 prompts of 512 tokens" in words
    assert not (tmp_path / "nothing").exists(), "looking creates nothing"


def test_a_sent_prompt_waits_for_a_worker_and_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(monkeypatch, tmp_path, "inspect")
    app.text_area(key="ask.text").set_value("The capital of France is")
    app.button[-1].click().run()
    inspection_id = app.query_params["inspection"]
    here = Settings(home=tmp_path)
    assert live.get_inspection(inspection_id, here).status == "queued"
    assert live.read_request(inspection_id, here).prompts == ["The capital of France is"]
    assert "Waiting for a worker" in said(app)
    assert [code.value for code in app.code] == ["vmoer worker"]
    app.button(key="inspection.cancel").click().run()
    assert live.get_inspection(inspection_id, here).status == "cancelled"
    assert "cancelled" in app.info[0].value


def test_uploaded_questions_with_answers_are_evaluated_and_prompts_are_traced(tmp_path: Path) -> None:
    limits = Settings(home=tmp_path)
    values = {"model": "worldfacts-moe", "methods": [], "layers": None, "samples": 3, "seed": 0, "routers": "untrained"}
    answered = read_upload(b"question;A;B;answer\nQ;u;v;B\n", limits).accepted()
    prompts = read_upload(b"one\ntwo\n", limits).accepted()
    assert [kept_spec(items, values, limits).stages for items in (answered, prompts)] == [
        ["trace", "evaluate"],
        ["trace"],
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("   ", "The prompt is empty"), ("a\0b", "NUL"), ("\ud800", "lone surrogate")],
)
def test_what_cannot_be_inspected_is_a_sentence(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(monkeypatch, tmp_path, "inspect")
    monkeypatch.setattr("app.views.inspect.form.st.text_area", lambda *_, **__: text)
    app.button[-1].click().run()
    assert not app.exception
    assert sentence in app.error[0].value.replace("\\", "")
    assert "inspection" not in app.query_params


def test_a_stored_question_opens_in_the_form_by_name_and_never_by_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"run": run_id("fcvr"), "dataset": "synthetic-id", "example": "synthetic-id-0003"}
    make_store(tmp_path, runs=("fcvr",), layers=2, experts=4, top_k=2, examples=6)
    app = open_page(monkeypatch, tmp_path, "inspect", named)
    assert app.text_area(key="ask.text").value == "Question: synthetic question synthetic-id-0003?\nAnswer:"
    assert "not among those offered" in said(app), "the model of this store is a synthetic one"
    app.text_area(key="ask.text").set_value("another prompt")
    app.button[-1].click().run()
    assert set(app.query_params) == {"inspection"}, "what the link named is not what is inspected"
    wrong = open_page(monkeypatch, tmp_path, "inspect", {**named, "example": "<b>nowhere</b>"})
    assert "Example “\\<b\\>nowhere" in wrong.error[0].value
    layers = open_page(monkeypatch, tmp_path, "layers", named)
    layers.session_state["vmoer.drawn"] = path_of("layers")
    layers.run()
    assert layers.get("page_link")[-1].proto.query_string == urlencode(named)
    without = open_page(monkeypatch, tmp_path, "inspect", {"run": named["run"]})
    assert "capital of France" in without.text_area(key="ask.text").value


def test_a_question_whose_text_is_not_stored_cannot_be_taken_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"run": run_id("fcvr"), "dataset": "synthetic-id", "example": "synthetic-id-0003"}
    make_store(tmp_path, runs=("fcvr",), layers=2, experts=4, top_k=2, examples=6, text=False)
    app = open_page(monkeypatch, tmp_path, "layers", named)
    app.session_state["vmoer.drawn"] = path_of("layers")
    app.run()
    assert "text of this question is not stored" in said(app)
    assert "is not stored; type or paste it" in open_page(monkeypatch, tmp_path, "inspect", named).info[-1].value


def test_a_full_queue_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMOER_LIVE_WAITING", "1")
    here = Settings(home=tmp_path)
    live.submit(live.parse_request({"model": "worldfacts-moe", "prompts": ["a"]}, here), here)
    app = open_page(monkeypatch, tmp_path, "inspect")
    app.button[-1].click().run()
    assert "1 inspections wait already" in app.error[0].value.replace("\\", "")


@pytest.mark.parametrize("wrong", ["20260101-000000-000000000000", "../../etc/passwd", "<script>"])
def test_an_unknown_inspection_is_not_found(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(monkeypatch, tmp_path, "inspect", {"inspection": wrong})
    assert app.error[0].value
    assert "inspection" in app.error[0].value


def test_jobs_without_data_offers_a_valid_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(monkeypatch, tmp_path / "nothing", "jobs")
    assert "No jobs yet" in said(app)
    spec = parse_spec(yaml.safe_load(app.code[0].value))
    assert (spec.model, spec.stages) == ("worldfacts-moe", ["trace", "evaluate"])
    assert app.code[1].value.startswith("cat > spec.yaml")
    assert not (tmp_path / "nothing").exists()


def test_before_a_start_the_form_says_how_much_it_asks_for_and_what_a_run_took(tmp_path: Path) -> None:
    spec = parse_spec(
        {"model": "worldfacts-moe", "data": {"id": {"name": "worldfacts", "split": "test", "limit": 1200}}}
    )
    assert scale_of(spec, None) == "Each run answers up to 1,200 questions."
    make_store(tmp_path, runs=("deterministic",), model="worldfacts-moe", layers=2, experts=4, top_k=2, examples=6)
    found = scale_of(spec, open_data(tmp_path))
    assert re.search(r"run of worldfacts-moe \(deterministic\) took 1 h.* and [\d.]+ MB", found)
    assert "Nothing is known" in scale_of(spec.model_copy(update={"model": "smollm2-moe"}), open_data(tmp_path))


def test_an_impossible_experiment_is_refused_while_it_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(monkeypatch, tmp_path, "jobs")
    app.multiselect(key="job.stages").set_value(["ood"]).run()
    assert "add evaluate" in app.error[0].value.replace("\\", "")
    app.multiselect(key="job.stages").set_value(["trace"]).run()
    app.text_input(key="job.layers").set_value("first:2").run()
    assert "layer selection" in app.error[0].value.replace("\\", "")
    assert not (tmp_path / "jobs.sqlite").exists()


def test_a_started_job_is_watched_cancelled_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(monkeypatch, tmp_path, "jobs")
    app.text_input(key="job.name").set_value("mine").run()
    app.button(key="job.start").click().run()
    assert not app.exception
    here = Settings(home=tmp_path)
    (job,) = jobs.list_jobs(here)
    assert app.query_params["job"] == job.job_id
    assert (job.name, job.status) == ("mine", "queued")
    assert "waiting for a worker" in said(app).lower()
    app.button(key="jobs.cancel").click().run()
    assert jobs.get_job(job.job_id, here).status == "cancelled"
    assert "goes on behind its last finished step" in said(app)
    app.button(key="jobs.resume").click().run()
    assert jobs.get_job(job.job_id, here).status == "queued"


def test_training_first_and_other_sets_become_the_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(monkeypatch, tmp_path, "jobs")
    app.multiselect(key="job.methods").set_value(["deterministic", "mfvr"]).run()
    app.multiselect(key="job.far").set_value(["worldfacts · far-ood"]).run()
    app.button_group(key="job.routers").set_value("train them first").run()
    spec = parse_spec(yaml.safe_load(app.code[0].value))
    assert spec.routers.train is not None
    assert (spec.routers.train.data.split, spec.routers.train.validation.split) == ("train", "validation")
    assert spec.data.far[0].split == "far-ood"
    assert spec.methods == ["deterministic", "mfvr"]


def test_a_link_to_an_unknown_job_shows_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse_spec({"model": "worldfacts-moe", "data": {"id": {"name": "worldfacts", "split": "test", "limit": 2}}})
    jobs.submit(spec, settings=Settings(home=tmp_path))
    app = open_page(monkeypatch, tmp_path, "jobs", {"job": "20260101-000000-deadbeef-0000"})
    assert "not found" in app.error[0].value
    assert not [button for button in app.button if str(button.key).startswith("job")]


def test_a_job_database_that_cannot_be_read_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs.sqlite").write_text("this is no database")
    app = open_page(monkeypatch, tmp_path, "jobs")
    assert "cannot be read" in app.error[0].value
