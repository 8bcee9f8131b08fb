"""Inspect and Jobs in a real browser with a real worker: a prompt, a file, a token, an explanation, a job, cancel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.jobs import client as jobs
from pipelines.jobs import inspections as live
from pipelines.settings import Settings
from tests.e2e.conftest import serve
from tests.e2e.test_dashboard import TIMEOUT, opened, settle, shared_context
from tests.pipelines.support import start_worker

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Settings]]:
    """A dashboard and a worker on one data folder; where it listens, and the folder's settings."""
    home = tmp_path_factory.mktemp("lively")
    worker = start_worker(home)
    try:
        for address in serve(home, tmp_path_factory.mktemp("lively-server")):
            yield address, Settings(home=home)
    finally:
        worker.terminate()
        worker.wait(timeout=60)


def send(page: Page) -> None:
    page.get_by_role("button", name="Inspect", exact=True).click()


def inspection_of(page: Page) -> str:
    found = re.search(r"inspection=([0-9a-f-]+)", page.url)
    assert found, page.url
    return found[1]


def test_a_typed_prompt_is_routed_and_a_click_on_a_token_changes_the_fan(
    browser: Browser, lively: tuple[str, Settings]
) -> None:
    with opened(browser, f"{lively[0]}/inspect") as (page, elsewhere):
        page.get_by_label("Prompt", exact=True).fill("The capital of <b>France</b> is")
        page.get_by_label("Prompt", exact=True).press("Control+Enter")
        strip = page.locator(".strip")
        strip.wait_for()
        settle(page)
        assert "<b>" in strip.inner_text().replace("\n", ""), "markup stays text"
        assert strip.locator("b").count() == 0
        before = page.get_by_text(re.compile("^Experts of")).inner_text()
        strip.locator("span").nth(2).click()
        page.wait_for_url("**token=2**")
        settle(page)
        assert page.get_by_text(re.compile("^Experts of")).inner_text() != before
        strip.press("ArrowRight")
        page.wait_for_url("**token=3**")
        settle(page)
        page.get_by_role("button", name="Explain", exact=True).click()
        page.get_by_text(re.compile(r"Ablation under fcvr, \d+ prompts asked")).wait_for()
        settle(page)
        assert page.locator('[data-testid="stException"]').count() == 0
        assert elsewhere == []
        link = page.url
    with opened(browser, link) as (page, _):  # the link restores token, layer and explanation
        page.locator(".strip .on").wait_for()
        assert page.locator(".strip span").nth(3).get_attribute("aria-selected") == "true"
        page.get_by_text(re.compile("Ablation under fcvr")).wait_for()


def test_an_uploaded_file_of_prompts_comes_back_as_results(
    browser: Browser, lively: tuple[str, Settings], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"  # the content decides: this is CSV
    file.write_text('id,prompt\na,"Water boils at"\nb,"مرحبا 👋"\n', encoding="utf-8")
    with opened(browser, f"{lively[0]}/inspect") as (page, _):
        page.locator('input[type="file"]').set_input_files(file)
        page.get_by_text("prompts.txt").first.wait_for()
        page.get_by_text("CSV (comma), prompts without options: 2 prompts without answers").wait_for()
        page.get_by_text("The first rows as the model reads them").click()
        page.locator("code").get_by_text("Water boils at").wait_for()
        send(page)
        page.locator(".strip").wait_for()
        settle(page)
        summary, table = live.read_result(inspection_of(page), lively[1])
        assert [prompt["text"] for prompt in summary["prompts"]] == ["Water boils at", "مرحبا 👋"]
        rows = [(row["prompt"], row["position"]) for row in table.to_pylist() if row["method"] == "fcvr"]
        tokens = [len({position for prompt, position in rows if prompt == number}) for number in (0, 1)]
        assert tokens[0] != tokens[1]
        assert page.locator(".strip span").count() == tokens[0]
        page.goto(re.sub(r"prompt=0", "prompt=1", page.url))
        page.locator(".strip").wait_for()
        settle(page)
        assert page.locator(".strip span").count() == tokens[1]
        waiting = shared_context(browser).new_page()
        waiting.goto(f"{lively[0]}/experts")
        waiting.get_by_text("No results yet").wait_for()
        page.get_by_role("button", name="Keep as a run").click()
        page.get_by_text("Watch it on the Jobs page").click()
        page.get_by_role("heading", name="inspected").wait_for()
        found = re.search(r"job=([0-9a-f-]+)", page.url)
        assert found
        kept = jobs.job_spec(found[1], lively[1])
        assert kept["methods"] == ["fcvr"]
        done = jobs.wait(found[1], timeout=90, settings=lively[1])
        assert done.status == "finished", done.message
        waiting.wait_for_selector("svg.marks", timeout=TIMEOUT)  # nobody reloaded it
        waiting.close()


def test_an_upload_with_a_row_that_cannot_be_used_names_it_and_cannot_be_sent(
    browser: Browser, lively: tuple[str, Settings], tmp_path: Path
) -> None:
    file = tmp_path / "questions.csv"
    file.write_text("question;A;B;answer\n<b>Where</b> is Lyon?;France;Peru;A\nWhere is Oslo?;Norway;Peru;C\n")
    with opened(browser, f"{lively[0]}/inspect") as (page, _):
        page.locator('input[type="file"]').set_input_files(file)
        page.get_by_text("Rows refused: 1").wait_for()
        page.get_by_text(
            "CSV (semicolon), question, a column for each option, answer: 1 question of 2 options"
        ).wait_for()
        page.get_by_text("The first rows as the model reads them").click()
        page.locator("code").get_by_text("Question: <b>Where</b> is Lyon?").wait_for()
        assert page.get_by_role("button", name="Inspect", exact=True).is_disabled()


def test_many_prompts_become_a_job_that_the_jobs_page_shows(
    browser: Browser, lively: tuple[str, Settings], tmp_path: Path
) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join(f'{{"prompt": "Number {number} is"}}' for number in range(20)), encoding="utf-8")
    with opened(browser, f"{lively[0]}/inspect") as (page, _):
        page.locator('input[type="file"]').set_input_files(file)
        page.get_by_text("many.jsonl").first.wait_for()
        send(page)
        page.get_by_text("Watch it on the Jobs page").click()
        page.get_by_role("heading", name="inspected").wait_for()
        job = jobs.list_jobs(lively[1])[0]  # the newest
        assert f"job={job.job_id}" in page.url
        done = jobs.wait(job.job_id, timeout=90, settings=lively[1])
        assert done.status == "finished", done.message
        page.get_by_text("run finished").first.wait_for()
        page.get_by_role("link", name=done.run_ids[0]).wait_for()


def test_cancel_stops_an_inspection(browser: Browser, lively: tuple[str, Settings], tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("\n".join("word " * 90 for _ in range(16)), encoding="utf-8")
    with opened(browser, f"{lively[0]}/inspect") as (page, _):
        page.get_by_label("Samples").fill("100")
        page.get_by_label("New tokens").fill("32")
        page.locator('input[type="file"]').set_input_files(file)
        page.get_by_text("long.txt").first.wait_for()
        send(page)
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("This inspection was cancelled").wait_for()
        assert live.get_inspection(inspection_of(page), lively[1]).status == "cancelled"
