"""The dashboard in a real browser: every page in both themes, links, clicks, downloads, and no request elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd
import pytest

from app import pages
from store import queries
from store.reader import open_store
from tests.store.factory import run_id

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

PAGES = {page.name: page.address for page in pages.PAGES if page.needs_results}
WIDTHS = (1440, 390)
FCVR = run_id("fcvr")
SETTLED = """() => !document.querySelector('[data-testid="stStatusWidget"], .st-key-later')
    && document.querySelectorAll('[data-stale="true"]').length === 0
    && document.querySelectorAll('[data-testid="stSkeleton"]').length === 0"""
TIMEOUT = 90_000


@cache
def shared_context(browser: Browser) -> BrowserContext:
    """One browser profile for all tests: the dashboard keeps nothing in it, and its scripts are loaded once."""
    return browser.new_context(accept_downloads=True)


@contextmanager
def opened(
    browser: Browser, url: str, theme: Literal["light", "dark"] = "light", width: int = 1440
) -> Iterator[tuple[Page, list[str]]]:
    """A settled page at ``url`` and what must stay empty: requests elsewhere, and breaches of the security policy."""
    page = shared_context(browser).new_page()
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    page.set_default_timeout(TIMEOUT)
    elsewhere: list[str] = []
    page.on("request", lambda request: elsewhere.append(request.url) if leaves(request.url) else None)
    page.on("console", lambda said: elsewhere.append(said.text) if "Content Security Policy" in said.text else None)
    try:
        page.goto(url)
        settle(page)
        yield page, elsewhere
    finally:
        page.close()


def leaves(url: str) -> bool:
    """Whether a request goes anywhere but to the dashboard itself."""
    return not re.match(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:|about:", url)


#: the least contrast with the page of captions and of what stands around charts, by WCAG's formula
CONTRAST = """() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = colour => colour.map(one => one / 255)
    .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const page = channels(getComputedStyle(document.querySelector(".stApp")).backgroundColor).slice(0, 3);
  const found = [];
  const measure = (colour, opacity) => {
    const seen = channels(colour).slice(0, 3).map((one, place) => opacity * one + (1 - opacity) * page[place]);
    const [dark, light] = [luminance(seen), luminance(page)].sort((one, other) => one - other);
    found.push((light + 0.05) / (dark + 0.05));
  };
  for (const one of document.querySelectorAll('[data-testid="stCaptionContainer"]'))
    measure(getComputedStyle(one).color, Number(getComputedStyle(one).opacity));
  for (const one of document.querySelectorAll('svg.marks :is([class*="role-axis"], [class*="role-legend"]) text'))
    measure(getComputedStyle(one).fill, Number(getComputedStyle(one).fillOpacity));
  return Math.min(...found);
}"""


def settle(page: Page) -> None:
    """Wait until the script has run and nothing on the page is stale."""
    page.wait_for_selector("h1")
    page.wait_for_function(SETTLED)
    page.wait_for_timeout(300)
    page.wait_for_function(SETTLED)


def full_height(page: Page, width: int) -> None:
    """Make the window as tall as the page, so that a screenshot holds all of it."""
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(200)
    height = page.evaluate("document.querySelector('[data-testid=\"stMain\"]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(int(height) + 60, 9000)})
    page.wait_for_timeout(300)


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    main = page.locator('[data-testid="stMain"]')
    return int(main.evaluate("element => element.scrollWidth - element.clientWidth"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_page_renders_without_exception_overflow_foreign_request_or_breach_of_the_policy(
    name: str, theme: Literal["light", "dark"], browser: Browser, address: str, artifacts: Path
) -> None:
    with opened(browser, f"{address}/{PAGES[name]}", theme) as (page, elsewhere):
        if name != "export":
            page.wait_for_selector("svg.marks")
        for width in WIDTHS:
            full_height(page, width)
            page.screenshot(path=artifacts / f"{name}-{theme}-{width}.png")
            assert overflow(page) <= 0
        for width, height in ((360, 740), (3840, 2160)) if theme == "light" else ():
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(300)
            assert overflow(page) <= 0
        assert page.locator('[data-testid="stException"]').count() == 0
        assert page.locator('[data-testid="stAlertContentError"]').count() == 0
        assert page.evaluate(CONTRAST) >= 4.5
        assert elsewhere == []


@pytest.mark.parametrize("name", PAGES)
def test_page_without_results_names_the_command(name: str, browser: Browser, empty_address: str) -> None:
    with opened(browser, f"{empty_address}/{PAGES[name]}") as (page, elsewhere):
        assert page.get_by_text("vmoer demo").count() >= 1
        assert page.locator('[data-testid="stException"]').count() == 0
        assert elsewhere == []


def test_a_deep_link_restores_the_page(browser: Browser, address: str) -> None:
    link = f"{address}/layers?run={FCVR}&mode=propagated&gamma=0.01&layer=5&dataset=synthetic-far&weighting=gate_share"
    with opened(browser, link) as (page, _):
        assert page.get_by_role("heading", name="Layer 5", exact=True).count() == 1
        assert page.get_by_text("At γ = 0.01").count() >= 1
        assert "layer=5" in page.url
        assert "gamma=0.01" in page.url


def test_a_wrong_link_shows_nothing_else(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/ood?run={FCVR}x") as (page, _):
        assert page.get_by_text("not found").count() >= 1
        assert page.locator("svg.marks").count() == 0
        page.get_by_text("Open this page without").click()
        page.wait_for_selector("svg.marks")


def test_a_click_on_a_layer_of_the_heatmap_shows_that_layer(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/layers?run={FCVR}&layer=0") as (page, _):
        assert page.get_by_role("heading", name="Layer 0", exact=True).count() == 1
        page.locator('svg.marks [aria-label*="layer: 7; noise"]').first.click()
        page.get_by_role("heading", name="Layer 7", exact=True).wait_for()
        assert "layer=7" in page.url


def test_the_menu_keeps_the_chosen_run(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/layers?run={run_id('deterministic')}") as (page, _):
        page.get_by_role("link", name="OoD detection").click()
        page.get_by_role("heading", name="OoD detection", exact=True).wait_for()
        settle(page)
        assert f"run={run_id('deterministic')}" in page.url


def test_the_downloaded_csv_equals_the_stored_numbers(browser: Browser, address: str, home: Path) -> None:
    with opened(browser, f"{address}/layers?run={FCVR}&mode=router") as (page, _):
        page.get_by_role("button", name="Export").first.click()
        with page.expect_download() as started:
            page.get_by_role("button", name="CSV", exact=True).click()
        found = pd.read_csv(started.value.path())
    with open_store(home) as store:
        stored = queries.layer_susceptibility(store, [FCVR], "router")
    numbers = ["gamma", "layer", "jaccard", "ci_low", "ci_high", "threshold", "n"]
    pd.testing.assert_frame_equal(
        found[numbers].sort_values(["gamma", "layer"], ignore_index=True),
        stored[numbers].sort_values(["gamma", "layer"], ignore_index=True),
        check_dtype=False,
        rtol=1e-15,
    )


def test_the_downloaded_chart_is_a_picture(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/calibration") as (page, _):
        page.get_by_role("button", name="Export").first.click()
        with page.expect_download() as started:
            page.get_by_role("button", name="PNG", exact=True).click()
        assert Path(started.value.path()).read_bytes().startswith(b"\x89PNG")


def test_the_explanation_of_a_metric_opens_with_its_formula(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/layers?run={FCVR}") as (page, elsewhere):
        page.get_by_role("button", name="What is this?").first.click()
        page.locator(".katex").first.wait_for()
        assert page.get_by_text("Jaccard index of expert sets").count() >= 1
        assert elsewhere == []


def test_next_question_changes_the_tokens(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/compare?run={FCVR}&part=question") as (page, _):
        strip = page.locator(".vmoer-strip").first
        before = strip.inner_text()
        page.get_by_role("button", name="Next").click()
        page.wait_for_function("text => document.querySelector('.vmoer-strip')?.innerText !== text", arg=before)
        settle(page)
        assert strip.inner_text() != before
        assert "example=" in page.url
