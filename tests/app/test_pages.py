"""Every page without data, with a synthetic store, behind right and wrong links, and with unfinished or failed runs."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import pages
from app.pages import path_of
from app.shared.page_file import page_file
from pipelines.serve.dashboard import MAIN
from store import queries
from store.archive import read_archive, write_archive
from store.catalog import seal
from store.publish import publish
from store.reader import open_store
from tests.app.opening import app_at, turned_to
from tests.store.factory import make_store, run_id

PAGES = [page.name for page in pages.PAGES if page.needs_results]
FCVR = run_id("fcvr")
DETERMINISTIC = run_id("deterministic")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    make_store(folder, layers=6, experts=8, top_k=2, examples=24)
    return folder


def open_page(
    monkeypatch: pytest.MonkeyPatch, home: Path, page: str, link: dict[str, str | list[str]] | None = None
) -> AppTest:
    monkeypatch.setenv("VMOER_HOME", str(home))
    app = app_at(page)
    app.session_state["vmoer.drawn"] = path_of(page)  # as a browser says once the first chart is on its screen
    for name, value in (link or {}).items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    """All that the page says in words."""
    kinds = ("title", "markdown", "caption", "error", "warning", "info")
    return "\n".join(str(getattr(element, "value", "")) for kind in kinds for element in getattr(app, kind))


def charts(app: AppTest) -> int:
    return len(app.get("vega_lite_chart")) + len(app.get("arrow_vega_lite_chart"))


def test_every_page_is_a_folder_with_a_line_in_the_table() -> None:
    folders = {path.name for path in (MAIN.parent / "views").iterdir() if (path / "__init__.py").is_file()}
    assert folders == {page.name for page in pages.PAGES}
    assert all((MAIN.parent / page.path).is_file() for page in pages.PAGES)
    assert len({page.title for page in pages.PAGES}) == len(pages.PAGES)


@pytest.mark.parametrize("page", [page.name for page in pages.PAGES if not page.needs_results])
def test_a_page_that_needs_no_results_opens_without_any(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(monkeypatch, tmp_path / "nothing", page)
    assert app.title[0].value in {one.title for one in pages.PAGES if one.name == page}
    assert not app.error


@pytest.mark.parametrize("page", PAGES)
def test_without_results_the_page_says_which_command_makes_some(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(monkeypatch, tmp_path / "nothing", page)
    assert [code.value for code in app.code] == ["vmoer demo"]
    assert charts(app) == 0


@pytest.mark.parametrize("page", PAGES)
def test_with_results_the_page_draws_and_says_the_model_is_synthetic(
    page: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(monkeypatch, home, page)
    assert charts(app) >= (0 if page == "export" else 2)
    assert not app.error
    assert "synthetic" in " ".join(warning.value for warning in app.warning)


@pytest.mark.parametrize(("page", "first"), [("layers", 1), ("experts", 1), ("ood", 2), ("compare", 4)])
def test_what_lies_below_the_first_chart_waits_until_that_is_drawn(
    page: str, first: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_at(page)
    monkeypatch.setenv("VMOER_HOME", str(home))
    app.run()
    assert charts(app) == first
    whole = open_page(monkeypatch, home, page)
    assert charts(whole) > first
    assert dict(whole.query_params) == dict(app.query_params)


@pytest.mark.parametrize("page", PAGES)
def test_the_link_the_page_writes_restores_the_page(page: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_page(monkeypatch, home, page)
    link = dict(first.query_params)
    assert link
    again = open_page(monkeypatch, home, page, link)
    assert dict(again.query_params) == link
    assert said(again) == said(first)


@pytest.mark.parametrize("page", PAGES)
def test_a_link_to_an_unknown_run_says_so_and_shows_no_other_run(
    page: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "runs" if page == "calibration" else "run"
    app = open_page(monkeypatch, home, page, {name: "synthetic-moe.fcvr.in-router.deadbeef"})
    assert "not found" in app.error[0].value
    assert charts(app) == 0
    assert not app.selectbox
    assert not app.multiselect


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("layers", {"run": FCVR, "layer": "99"}),
        ("layers", {"run": FCVR, "gamma": "0.123"}),
        ("layers", {"run": FCVR, "mode": "sideways"}),
        ("layers", {"run": FCVR, "view": "everything"}),
        ("layers", {"run": FCVR, "layer": "first"}),
        ("layers", {"run": [FCVR, DETERMINISTIC]}),
        ("calibration", {"runs": FCVR, "datasets": "elsewhere"}),
        ("calibration", {"runs": FCVR, "scheme": "none"}),
        ("ood", {"run": FCVR, "score": "vibes"}),
        ("ood", {"run": DETERMINISTIC, "score": "logit_variance"}),
        ("ood", {"run": FCVR, "score": "answer_entropy", "position": "prompt_mean"}),
        ("compare", {"run": FCVR, "baseline": "../../etc/passwd"}),
        ("compare", {"run": FCVR, "baseline": DETERMINISTIC, "example": "no-such"}),
        ("overview", {"run": FCVR, "dataset": "![x](http://example.org)"}),
    ],
)
def test_a_wrong_part_of_a_link_is_named_and_nothing_is_shown_instead(
    page: str, link: dict[str, str | list[str]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(monkeypatch, home, page, link)
    assert len(app.error) == 1
    assert "![x](" not in app.error[0].value
    assert charts(app) == 0


def test_choosing_another_run_keeps_what_fits_and_drops_what_does_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(monkeypatch, home, "ood", {"run": FCVR, "score": "logit_variance", "position": "prompt_mean"})
    app.selectbox(key=f"{path_of('ood')}:run").set_value(DETERMINISTIC).run()
    assert not app.exception
    assert not app.error
    assert app.query_params["run"] == DETERMINISTIC
    assert app.query_params["score"] != "logit_variance"


def test_a_choice_is_kept_on_the_next_page(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(monkeypatch, home, "layers", {"run": DETERMINISTIC, "layer": "3"})
    app.query_params.clear()  # as the menu does
    turned_to(app, "ood").run()
    assert app.query_params["run"] == DETERMINISTIC


def test_calibration_draws_every_run_and_data_set_of_the_link(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link: dict[str, str | list[str]] = {
        "runs": [DETERMINISTIC, FCVR],
        "datasets": ["synthetic-id", "synthetic-far"],
        "calibration": "raw",
        "scheme": "adaptive",
    }
    app = open_page(monkeypatch, home, "calibration", link)
    diagrams, curves, paired = 4, 2, 4  # runs × sets; one per set; accuracy, ECE, NLL and Brier score
    assert charts(app) == diagrams + curves + paired


def test_calibration_says_above_its_charts_what_the_run_is_better_than(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(monkeypatch, home, "calibration", {"runs": [FCVR], "datasets": ["synthetic-id"]})
    with open_store(home) as store:
        rows = queries.comparisons(store, FCVR, names=("ece", "nll"))
    rows = rows[rows["dataset"] == "synthetic-id"]
    clear = rows[(rows["ci_low"] > 0) | (rows["ci_high"] < 0)]
    text = next(one.value for one in app.markdown if "− baseline" in one.value)
    assert f"n = {int(rows['n'].max())}" in text
    assert text.count("[") == len(clear), "every interval without zero, and no other"
    shown = next(one.value for one in app.dataframe if "against" in one.value.columns)
    assert len(shown) == rows["baseline_run_id"].nunique()


def test_the_verdicts_of_a_row_are_those_of_its_data_set_against_the_deterministic_run(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = next(
        frame.value for frame in open_page(monkeypatch, home, "overview").dataframe if "verdicts" in frame.value.columns
    )
    with open_store(home) as store:
        stored = queries.comparisons(store, FCVR, names=("accuracy", "ece", "nll"))
    stored = stored[(stored["baseline_run_id"] == DETERMINISTIC) & (stored["score"] == "")].set_index("dataset")
    for dataset, said in table.loc[table["run"] == FCVR, ["data set", "verdicts"]].itertuples(index=False):
        rows = stored.loc[[dataset]]
        unclear = ((rows["ci_low"] <= 0) & (rows["ci_high"] >= 0)).sum()
        assert sum("same" in one for one in said) == unclear
        assert sum("better" in one or "worse" in one for one in said) == len(rows) - unclear
    assert "baseline" in table.set_index("run").loc[DETERMINISTIC, "verdicts"]


def test_rows_and_choices_of_archived_runs_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"layers": 2, "experts": 4, "top_k": 2, "examples": 6}
    make_store(tmp_path / "made", runs=("deterministic",), **small)
    make_store(tmp_path / "here", runs=("fcvr",), **small)
    (tmp_path / "scratch").mkdir()
    packed = write_archive(
        tmp_path / "made", [DETERMINISTIC], tmp_path / "a.zip", tmp_path / "scratch", {"date": "2026-01-01"}
    )
    read_archive(packed, tmp_path / "here")
    app = open_page(monkeypatch, tmp_path / "here", "overview")
    table = next(frame.value for frame in app.dataframe if "verdicts" in frame.value.columns)
    assert dict(zip(table["run"], table["from"].map(list), strict=True)) == {
        FCVR: ["here"],
        f"{DETERMINISTIC}.archived": ["archive"],
    }
    assert table.columns[0] == "from", "seen without scrolling"
    choices = open_page(monkeypatch, tmp_path / "here", "experts").selectbox[0].options
    assert [name.endswith("(archived)") for name in choices] == ["fcvr" not in name for name in choices]


def test_runs_archived_as_summaries_say_why_they_have_no_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path / "made", runs=("deterministic", "fcvr"), layers=2, experts=4, top_k=2, examples=6)
    (tmp_path / "scratch").mkdir()
    packed = write_archive(
        tmp_path / "made", [DETERMINISTIC, FCVR], tmp_path / "a.zip", tmp_path / "scratch", {}, summaries=True
    )
    (tmp_path / "here").mkdir()
    read_archive(packed, tmp_path / "here")
    app = open_page(monkeypatch, tmp_path / "here", "compare", {"run": f"{FCVR}.archived"})
    assert "Archived as a summary, without an answer per question" in said(app)
    assert "Inspect are only traced" not in said(app)


def test_more_runs_than_fit_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMOER_APP_MAX_RUNS", "1")
    app = open_page(monkeypatch, home, "calibration", {"runs": [DETERMINISTIC, FCVR]})
    assert "at most 1" in app.error[0].value


def test_the_tokens_of_a_layer_follow_the_layer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link: dict[str, str | list[str]] = {"run": FCVR, "dataset": "synthetic-id", "by": "routing_entropy"}
    ranked = []
    for layer in ("4", "5"):
        frames = [frame.value for frame in open_page(monkeypatch, home, "layers", {**link, "layer": layer}).dataframe]
        ranked.append(next(frame for frame in frames if {"token", "n", "mean_entropy"} <= set(frame.columns)))
    assert len(ranked[0]) > 0
    assert not ranked[0].equals(ranked[1])


def test_the_file_of_a_page_holds_every_figure_also_of_views_that_are_not_open(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(monkeypatch, home, "layers", {"run": FCVR, "layer": "3", "view": "spread"})
    assert "Page as ZIP" in [button.label for button in app.get("download_button")]
    figures = app.session_state["vmoer.figures"].figures
    assert {"profile", "noise", "runs", "leverage", "quadrant", "experts", "tokens", "questions"} <= set(figures)
    kept = {key: figures[key] for key in ("profile", "quadrant", "tokens")}
    with zipfile.ZipFile(io.BytesIO(page_file("layers", kept))) as archive:
        names = archive.namelist()
        cards = json.loads(archive.read("card.json"))
    assert sum(name.endswith(".csv") for name in names) == 3
    assert sum(name.endswith(".svg") for name in names) == 2  # the tokens are a table
    assert [card["runs"][0]["run_id"] for card in cards["figures"]][-1] == FCVR


@pytest.mark.parametrize("view", ["noise", "quadrant"])
def test_the_least_stable_layer_is_named_where_the_page_opens_on_it(
    view: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(monkeypatch, home, "layers", {"run": FCVR, "view": view})
    assert f"layer {app.query_params['layer']}" in said(app).partition("Least stable")[2][:20]


def test_a_run_without_a_trace_says_what_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path, runs=("deterministic",), layers=3, experts=4, top_k=2, examples=6, publish_now=False)
    for table in ("routing", "tokens", "examples"):
        shutil.rmtree(tmp_path / "facts" / f"table={table}")
    seal(tmp_path, DETERMINISTIC)
    publish(tmp_path)
    for page in ("layers", "experts"):
        app = open_page(monkeypatch, tmp_path, page)
        assert any("trace" in code.value for code in app.code)
        assert not app.error


def test_a_page_opens_on_a_run_that_has_what_it_shows_and_offers_it_from_one_that_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path, runs=("deterministic", "fcvr"), layers=3, experts=4, top_k=2, examples=6, publish_now=False)
    for table in ("ood_scores", "metrics"):
        shutil.rmtree(tmp_path / "facts" / f"table={table}" / f"run_id={FCVR}")
    seal(tmp_path, FCVR)
    publish(tmp_path)
    assert open_page(monkeypatch, tmp_path, "ood").query_params["run"] == DETERMINISTIC
    app = open_page(monkeypatch, tmp_path, "ood", {"run": FCVR})
    assert "No OoD scores for this run" in said(app)
    assert any("deterministic, which has them" in link.proto.label for link in app.get("page_link"))
    assert charts(app) == 0
    shutil.rmtree(tmp_path / "facts" / "table=predictions" / f"run_id={FCVR}")
    seal(tmp_path, FCVR)
    publish(tmp_path)
    app = open_page(monkeypatch, tmp_path, "compare", {"run": FCVR, "baseline": DETERMINISTIC})
    assert "No answers are stored for synthetic-moe · fcvr" in said(app).replace("\\", "")
    assert any("deterministic, which has answers" in link.proto.label for link in app.get("page_link"))


def test_the_numeric_noise_floor_stands_beside_the_runs_or_the_command_that_measures_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path, runs=("deterministic", "fcvr"), layers=3, experts=4, top_k=2, examples=6)
    link: dict[str, str | list[str]] = {"run": FCVR, "view": "runs"}
    assert "numeric noise floor says nothing" in said(open_page(monkeypatch, tmp_path, "layers", link))
    shutil.rmtree(tmp_path / "facts" / "table=noise_floor")
    for one in (DETERMINISTIC, FCVR):
        seal(tmp_path, one)
    publish(tmp_path)
    found = said(open_page(monkeypatch, tmp_path, "layers", link))
    assert "No numeric noise floor is stored" in found
    assert "vmoer run SPEC" in found


def test_an_untrained_control_says_why_it_has_no_training_log(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(monkeypatch, home, "training", {"run": run_id("fcvr-untrained")})
    assert "not being trained is its purpose" in said(app)
    assert charts(app) == 0


def test_a_run_that_shares_routers_shows_the_log_of_the_one_that_trained_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path, runs=("fcvr", "fcvr-predictive"), layers=3, experts=4, top_k=2, examples=6, publish_now=False)
    shutil.rmtree(tmp_path / "facts" / "table=training_log" / f"run_id={run_id('fcvr-predictive')}")
    seal(tmp_path, run_id("fcvr-predictive"))
    publish(tmp_path)
    app = open_page(monkeypatch, tmp_path, "training", {"run": run_id("fcvr-predictive")})
    assert "share their routers" in said(app)
    assert charts(app) == 2


def test_too_large_a_table_is_left_to_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path, runs=("deterministic",), layers=16, experts=64, top_k=8, examples=100, tokens=(30, 40))
    monkeypatch.setenv("VMOER_APP_MAX_EXPORT", "1")
    app = open_page(monkeypatch, tmp_path, "export", {"run": DETERMINISTIC, "table": "routing"})
    assert any(code.value.startswith("vmoer export") and "routing" in code.value for code in app.code)
    assert "CSV" not in [button.label for button in app.get("download_button")]
    small = open_page(monkeypatch, tmp_path, "export", {"run": DETERMINISTIC, "table": "metrics"})
    assert "CSV" in [button.label for button in small.get("download_button")]


def test_comparing_a_run_with_itself_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(monkeypatch, home, "compare", {"run": FCVR, "baseline": FCVR})
    assert "same run" in app.info[0].value
    assert charts(app) == 0


def test_a_token_of_the_link_shows_its_experts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(monkeypatch, home, "compare", {"run": FCVR, "baseline": DETERMINISTIC, "token": "2"})
    assert "position 2" in said(app)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("status", ["failed", "running"])
def test_an_unfinished_or_failed_run_is_shown_as_such(
    page: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path, runs=("deterministic", "fcvr"), layers=3, experts=4, top_k=2, examples=12, status=status)
    app = open_page(monkeypatch, tmp_path, page)
    message = app.error[0].value if status == "failed" else app.info[0].value
    assert "failed" in message if status == "failed" else "not finished" in message


def test_one_run_alone_cannot_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path, runs=("deterministic",), layers=3, experts=4, top_k=2, examples=12)
    app = open_page(monkeypatch, tmp_path, "compare")
    assert "only one run" in said(app)


def test_results_published_while_the_page_is_open_appear_at_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"layers": 3, "experts": 4, "top_k": 2, "examples": 12}
    make_store(tmp_path, runs=("deterministic",), **small)
    app = open_page(monkeypatch, tmp_path, "ood")
    assert len(app.selectbox(key=f"{path_of('ood')}:run").options) == 1
    make_store(tmp_path, runs=("fcvr",), **small)
    app.run()
    assert len(app.selectbox(key=f"{path_of('ood')}:run").options) == 2


def test_a_damaged_pointer_is_a_sentence_and_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "CURRENT").write_text("not a generation", encoding="utf-8")
    app = open_page(monkeypatch, tmp_path, "overview")
    assert app.error
    assert [code.value for code in app.code] == ["vmoer verify"]


def test_a_setting_that_cannot_be_used_is_a_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMOER_APP_MAX_POINTS", "lots")
    app = open_page(monkeypatch, home, "overview")
    assert "VMOER_APP_MAX_POINTS" in app.error[0].value.replace("\\", "")
