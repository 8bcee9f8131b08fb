"""The pages as a reader uses them: clicks, keys, links, files, narrow and wide windows, unfinished and failed runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from store import queries
from store.publish import publish
from store.reader import open_store
from tests.e2e.conftest import serve
from tests.e2e.test_dashboard import PAGES, leaves, opened, settle
from tests.store.factory import make_store, run_id

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

FCVR, DETERMINISTIC = run_id("fcvr"), run_id("deterministic")
SMALL = {"layers": 3, "experts": 4, "top_k": 2, "examples": 12}


def downloaded(page: Page, key: str, name: str) -> Path:
    """The file of one button of a figure's export list."""
    page.locator(f'[class*="st-key-{key}-export"] button').first.click()
    with page.expect_download() as started:
        page.get_by_role("button", name=name, exact=True).click()
    return Path(started.value.path())


def started_runs(page: Page) -> list[str]:
    """The page of every script run that starts from now on, filled as they do; the page is loaded anew."""
    found: list[str] = []

    def received(payload: str | bytes) -> None:
        message = ForwardMsg.FromString(payload)
        if message.WhichOneof("type") == "new_session":
            found.append(message.new_session.page_script_hash)

    page.on("websocket", lambda socket: socket.on("framereceived", received))
    page.reload()
    settle(page)
    found.clear()
    return found


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A dashboard on a data folder that a test fills."""
    folder = tmp_path_factory.mktemp("unfinished")
    for address in serve(folder / "data", tmp_path_factory.mktemp("unfinished-server")):
        yield address, folder / "data"


@pytest.mark.parametrize("status", ["running", "failed"])
def test_every_page_shows_what_an_unfinished_or_failed_run_has(
    status: str, browser: Browser, unfinished: tuple[str, Path]
) -> None:
    address, home = unfinished
    make_store(home, runs=("deterministic", "fcvr"), status=status, publish_now=False, **SMALL)
    publish(home)
    said = re.compile("Failed runs?" if status == "failed" else "Runs? (is|are) running")
    with opened(browser, address) as (page, elsewhere):
        for name, path in PAGES.items():
            page.goto(f"{address}/{path}")
            page.get_by_text(said).first.wait_for()
            settle(page)
            assert page.locator('[data-testid="stException"]').count() == 0, name
        assert elsewhere == []


def test_a_click_in_the_heatmap_changes_layer_experts_and_tokens(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/layers?run={FCVR}&layer=0") as (page, _):
        assert page.get_by_role("heading", name="Tokens of layer 0").count() == 1
        strip = page.locator(".vmoer-strip span").first
        before = strip.get_attribute("title")
        page.locator('svg.marks [aria-label*="layer: 7; noise"]').first.click()
        page.get_by_role("heading", name="Tokens of layer 7").wait_for()
        page.get_by_role("heading", name="Experts of layer 7").wait_for()
        page.wait_for_function("old => document.querySelector('.vmoer-strip span')?.title !== old", arg=before)
        page.get_by_role("link", name="Inspect this prompt").click()
        page.get_by_role("heading", name="Inspect", exact=True).wait_for()
        settle(page)
        assert page.get_by_label("Prompt", exact=True).input_value().startswith("Question: synthetic question")


def test_the_rest_of_a_page_follows_its_first_chart_and_a_choice_in_it_counts_for_the_whole_page(
    browser: Browser, address: str
) -> None:
    with opened(browser, f"{address}/experts?run={FCVR}&layer=2") as (page, _):
        page.get_by_role("heading", name="Layer 2, expert").wait_for()  # far below the window's edge
        assert page.locator(".st-key-later").count() == 0
        runs = started_runs(page)
        for layer in (3, 4, 5):
            page.get_by_role("button", name="Next layer").click()
            page.get_by_role("heading", name=f"Layer {layer}, expert").wait_for()
            page.wait_for_function(f"location.search.includes('layer={layer}')")
            settle(page)  # a click during a run would meet the button of the run before
        page.get_by_role("heading", name="Experts of layer 5").wait_for()
        page.wait_for_function("document.querySelectorAll('[data-testid=stVegaLiteChart] .marks').length === 4")
        # the part that came later runs before the page; drawn with the page, it is part of that run
        assert len(runs) == 2 + 1 + 1


def test_the_chosen_layer_goes_along_to_its_experts(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/layers?run={FCVR}&layer=6") as (page, _):
        page.get_by_role("link", name="Experts of this layer").click()
        page.get_by_role("heading", name=re.compile("Layer 6, expert")).wait_for()
        assert "layer=6" in page.url
        assert f"run={FCVR}" in page.url


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        (f"experts?run={FCVR}&layer=5&expert=3&dataset=synthetic-far", "Layer 5, expert 3"),
        (f"ood?run={FCVR}&score=gate_entropy&position=prompt_mean&aggregation=mean_layers&curve=pr", "Precision over"),
        (f"calibration?runs={FCVR}&datasets=synthetic-near&scheme=adaptive", "Reliability on synthetic-near"),
        (f"training?run={FCVR}&quantity=kl", "KL to the prior"),
        (f"layers?run={FCVR}&measure=instability&layer=7&by=logit_variance", "Layer 7"),
        (f"export?run={FCVR}&baseline={DETERMINISTIC}&table=predictions", "Export"),
        (f"compare?run={FCVR}&baseline={DETERMINISTIC}&part=experts", "Experts gained and lost"),
    ],
)
def test_a_deep_link_restores_every_page(link: str, shown: str, browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/{link}") as (page, _):
        assert page.get_by_role("heading", name=re.compile(re.escape(shown))).count() >= 1
        for part in link.partition("?")[2].split("&"):
            assert part in page.url, part


def test_keys_step_through_layers_and_questions_and_open_the_help(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/layers?run={FCVR}&layer=2") as (page, elsewhere):
        page.keyboard.press("Alt+ArrowDown")
        page.get_by_role("heading", name="Layer 3", exact=True).wait_for()
        settle(page)
        page.keyboard.press("Alt+ArrowRight")
        page.wait_for_function("() => location.search.includes('example=synthetic-id-0001')")
        settle(page)
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.tagName") == "INPUT"
        page.keyboard.press("Escape")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("?")
        page.get_by_role("dialog").get_by_text("Reading a page").wait_for()
        assert elsewhere == []


def test_files_of_figures_hold_the_stored_numbers(browser: Browser, address: str, home: Path) -> None:
    with opened(browser, f"{address}/experts?run={FCVR}&dataset=synthetic-id") as (page, _):
        found = pd.read_csv(downloaded(page, "load", "CSV"))
    with open_store(home) as store:
        stored = queries.expert_load(store, FCVR, "synthetic-id")
    pd.testing.assert_frame_equal(found, stored, check_dtype=False, rtol=1e-15)
    with opened(browser, f"{address}/calibration?runs={FCVR}&datasets=synthetic-id&calibration=raw") as (page, _):
        found = pd.read_csv(downloaded(page, "reliability-synthetic-id", "CSV"))
    with open_store(home) as store:
        stored = queries.reliability(store, FCVR, "synthetic-id")
    numbers = ["bin", "lower", "upper", "n", "mean_confidence", "accuracy", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(found[numbers], stored[numbers], check_dtype=False, rtol=1e-15)


def test_a_table_and_the_whole_database_can_be_taken_along(browser: Browser, address: str, home: Path) -> None:
    with opened(browser, f"{address}/export?run={FCVR}&baseline={DETERMINISTIC}&table=predictions") as (page, _):
        with page.expect_download() as started:
            page.get_by_role("button", name="CSV", exact=True).click()
        table = pd.read_csv(started.value.path())
        with page.expect_download() as started:
            page.get_by_role("button", name="DuckDB, all tables").click()
        with duckdb.connect(str(started.value.path()), read_only=True) as connection:
            answers = connection.sql("SELECT run_id, dataset, example_id, confidence, nll FROM predictions").df()
            facts = connection.execute("SELECT count(*) FROM routing").fetchone()
    with open_store(home) as store:
        stored = pd.concat([queries.predictions(store, one) for one in (DETERMINISTIC, FCVR)], ignore_index=True)
        routed = store.query("SELECT count(*) AS n FROM routing WHERE run_id IN (?, ?)", [DETERMINISTIC, FCVR])
    keys = ["run_id", "dataset", "example_id"]
    for found in (table, answers):
        both = [frame.sort_values(keys, ignore_index=True)[[*keys, "confidence", "nll"]] for frame in (found, stored)]
        pd.testing.assert_frame_equal(*both, check_dtype=False, rtol=1e-12)
    assert facts == (int(routed["n"].iloc[0]),)


def test_the_report_opens_anywhere_and_asks_for_nothing(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/export?run={FCVR}&baseline={DETERMINISTIC}") as (page, _):
        with page.expect_download() as started:
            page.get_by_role("button", name="Report (HTML, one file)").click()
        text = Path(started.value.path()).read_text(encoding="utf-8")
    context = browser.new_context(offline=True)
    report = context.new_page()
    asked: list[str] = []
    report.on("request", lambda request: asked.append(request.url) if leaves(request.url) else None)
    report.set_content(text)
    assert report.get_by_role("heading", name="Reproducibility card").count() == 1
    assert report.locator("img").count() >= 6
    assert report.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert FCVR in text
    assert asked == []
    context.close()
