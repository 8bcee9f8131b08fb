"""How long the dashboard takes over millions of routing rows: first paint and clicks, in headless Chromium.

    python -m benchmarks.app_load FOLDER [--repeat 5]           # FOLDER made by benchmarks.large_store
    python -m benchmarks.app_load FOLDER --processor            # where others share the machine
    python -m benchmarks.app_load FOLDER --sessions 20 --minutes 3

First paint is the time from asking for a page to the frame that shows its first chart, by the page's own clock, in a
fresh browser session; an interaction is the time from a click to what it asked for. ``--processor`` counts the
processor seconds of the server instead, for the first run of a page, a repeated one, and one with another layer; the
browser's part is not in it. With ``--sessions`` many browsers open pages at once beside a worker that computes, whose
runs stay in FOLDER; every exception counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from app.pages import path_of
from benchmarks.sessions import keep_writing
from pipelines.serve import processes as serve
from pipelines.serve.dashboard import streamlit_command
from pipelines.settings import Settings
from tests.app.opening import app_at
from tests.store.factory import run_id

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAINT_GOAL, CLICK_GOAL = 2.0, 0.4
RUN = run_id("fcvr")  # named in every link: what a job adds meanwhile is not what is measured
PAGES = {
    "overview": {"run": RUN},
    "layers": {"run": RUN},
    "experts": {"run": RUN},
    "calibration": {"runs": RUN},
    "ood": {"run": RUN},
    "compare": {"run": RUN, "baseline": run_id("deterministic")},
    "training": {"run": RUN},
}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
#: a chart; a large one is drawn on a canvas
CHART = '[data-testid="stVegaLiteChart"] .marks'
#: Notes when the first chart is shown. Asked from outside instead, Playwright looks every half second only.
PAINTED = """const look = () => {
    const one = document.querySelector('[data-testid="stVegaLiteChart"] .marks');
    if (one && one.getBoundingClientRect().height) requestAnimationFrame(() => { window.painted = Date.now(); });
    else requestAnimationFrame(look);
};
requestAnimationFrame(look);"""
#: the finished page: nothing running, nothing stale, nothing to follow
SETTLED = """() => !document.querySelector('[data-testid="stStatusWidget"], .st-key-later')
    && document.querySelectorAll('[data-stale="true"]').length === 0"""


def link(name: str, **more: str) -> str:
    """Path and query of a page that shows the large runs."""
    return f"{'' if name == 'overview' else name}?{urlencode({**PAGES[name], **more})}"


@contextmanager
def served(home: Path) -> Iterator[str]:
    """The address of a dashboard on ``home``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "VMOER_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        process = subprocess.Popen(streamlit_command(port), env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{address}/_stcore/health", timeout=2).close()  # noqa: S310  loopback
                    break
                except OSError:
                    time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=20)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium from the PATH."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        sys.exit("no Chromium found: install Debian's package `chromium`")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield opened
        opened.close()


def settle(page: Page) -> None:
    """Wait until the script has run."""
    page.wait_for_selector("h1")
    page.wait_for_function(SETTLED)
    page.wait_for_timeout(300)
    page.wait_for_function(SETTLED)


def paint(chromium: Browser, address: str) -> float:
    """Seconds from asking for the page to the frame with its first chart, in a session of its own."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(PAINTED)
    start = time.time()
    page.goto(address, wait_until="commit")
    page.wait_for_function("() => window.painted")
    seconds = page.evaluate("window.painted") / 1000 - start
    settle(page)
    context.close()
    return seconds


def next_layer(page: Page) -> float:
    """Seconds from asking for the next layer to its heading."""
    shown = page.locator("h3").first.inner_text()
    return _clicked(page, "Next layer", "old => document.querySelector('h3')?.innerText !== old", shown)


def next_question(page: Page) -> float:
    """Seconds from asking for the next question to its tokens."""
    shown = page.locator(".vmoer-strip").first.inner_text()
    return _clicked(page, "Next question", "old => document.querySelector('.vmoer-strip')?.innerText !== old", shown)


def other_curve(page: Page) -> float:
    """Seconds from asking for the other curve to its heading."""
    title = "() => [...document.querySelectorAll('h4')].map(one => one.innerText).join()"
    shown = page.evaluate(title)
    other = "ROC" if "Precision over recall" in shown else "precision–recall"
    return _clicked(page, other, f"old => ({title})() !== old", shown)


def other_bins(page: Page) -> float:
    """Seconds from asking for the other bins to the caption that names them."""
    text = "() => document.querySelector('[data-testid=\"stCaptionContainer\"]')?.innerText"
    shown = page.evaluate(text)
    other = "equal-width bins" if "adaptive" in (shown or "") else "adaptive (equal-mass) bins"
    return _clicked(page, other, f"old => ({text})() !== old", shown)


def _clicked(page: Page, name: str, changed: str, shown: Any) -> float:
    button = page.get_by_role("radio", name=name, exact=True).first
    if not button.count():  # a button's name begins with its icon
        button = page.get_by_role("button", name=name, exact=False).first
    start = time.perf_counter()
    # The element's own click: the mouse would have to find it below the header and beside charts still being drawn.
    button.evaluate("element => element.click()")
    page.wait_for_function(changed, arg=shown)
    seconds = time.perf_counter() - start
    settle(page)
    return seconds


CLICKS: dict[str, tuple[str, Callable[[Page], float]]] = {
    "layers: next layer": (link("layers", layer="3"), next_layer),
    "experts: next layer": (link("experts", layer="3"), next_layer),
    "calibration: other bins": (link("calibration"), other_bins),
    "ood: other curve": (link("ood"), other_curve),
    "compare: next question": (link("compare", part="question"), next_question),
}


def measure(home: Path, repeat: int) -> Iterator[dict[str, Any]]:
    """One row per page and click as soon as it is measured: median and worst of ``repeat``, beside its goal."""
    with served(home) as address, browser() as chromium:
        for name in PAGES:
            url = f"{address}/{link(name)}"
            first = paint(chromium, url)
            row = _row(f"first paint, {name}", [paint(chromium, url) for _ in range(repeat)])
            yield {**row, "detail": f"{row['detail']}; the server's first time {first:.2f}"}
        for name, (path, click) in CLICKS.items():
            context = chromium.new_context(viewport={"width": 1440, "height": 900})
            page = context.new_page()
            page.set_default_timeout(120_000)
            page.goto(f"{address}/{path}")
            page.wait_for_selector(f"{CHART}, .vmoer-strip")
            settle(page)
            yield _row(name, [click(page) for _ in range(repeat)], CLICK_GOAL)
            context.close()


def _row(name: str, times: list[float], goal: float = PAINT_GOAL) -> dict[str, Any]:
    value = statistics.median(times)
    detail = f"{min(times):.2f} to {max(times):.2f} s in {len(times)}"
    return {"name": name, "value": round(value, 3), "goal": goal, "met": value <= goal, "detail": detail}


#: page → the parameter that a click changes, and how many of its values are tried
CHANGES = {"layers": "layer", "experts": "layer", "compare": "layer"}


def processor(home: Path, repeat: int) -> Iterator[dict[str, Any]]:
    """One row per page: the server's processor seconds for the first run, and medians of repeated and changed ones."""

    os.environ["VMOER_HOME"] = str(home)
    for name in PAGES:
        app = app_at(name, 300)
        app.session_state["vmoer.drawn"] = path_of(name)  # what follows the first chart is counted too
        for key, value in PAGES[name].items():
            app.query_params[key] = value
        first = _spent(app.run)
        again = [_spent(app.run) for _ in range(repeat)]
        yield _row(f"{name}: first run", [first])
        yield _row(f"{name}: run again", again, CLICK_GOAL)
        if name in CHANGES:
            changed = []
            for number in range(1, repeat + 1):
                app.query_params[CHANGES[name]] = str(number)
                changed.append(_spent(app.run))
            yield _row(f"{name}: next {CHANGES[name]}", changed, CLICK_GOAL)
        if app.exception:
            sys.exit(f"an exception on {name}: {app.exception[0].value}")


def _spent(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@dataclass
class Crowd:
    """What many sessions met: seconds of each interaction, every exception, experiments written meanwhile."""

    times: list[float] = field(default_factory=list)
    written: int = 0
    exceptions: list[str] = field(default_factory=list)


@contextmanager
def worker(settings: Settings) -> Iterator[None]:
    """A worker on the data folder."""
    process = serve.start_worker(settings, "cpu")
    try:
        yield
    finally:
        serve.stop([process] if process is not None else [])


def crowd(home: Path, sessions: int, seconds: float) -> Crowd:
    """``sessions`` browser sessions walk through the pages for that long, five in a thread, while a worker computes.

    The worker takes one experiment after the other, whose runs stay in the data folder.
    """
    found = Crowd()
    settings = replace(Settings(), home=home, cache=Path("~/.cache/vmoer").expanduser())
    with served(home) as address, worker(settings):
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=lambda: setattr(found, "written", asyncio.run(keep_writing(settings, end)))),
            *(
                threading.Thread(target=_walk, args=(address, range(start, min(start + 5, sessions)), end, found))
                for start in range(0, sessions, 5)
            ),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


def _walk(address: str, numbers: range, end: float, found: Crowd) -> None:
    """Sessions of one thread take turns: each opens the next page in its own context and waits for its chart."""
    paths = [link(name) for name in PAGES]
    with browser() as chromium:
        pages = []
        for _ in numbers:
            page = chromium.new_context(viewport={"width": 1280, "height": 800}).new_page()
            page.set_default_timeout(60_000)
            pages.append(page)
        turn = 0
        while time.monotonic() < end:
            for number, page in zip(numbers, pages, strict=True):
                if time.monotonic() >= end:
                    break
                start = time.perf_counter()
                try:
                    page.goto(f"{address}/{paths[(turn + number) % len(paths)]}", wait_until="commit")
                    page.wait_for_selector(CHART)
                    found.times.append(time.perf_counter() - start)
                    if page.locator('[data-testid="stException"]').count():
                        found.exceptions.append(f"an exception on {page.url}")
                except Exception as error:  # a time-out is a finding too
                    found.exceptions.append(f"{type(error).__name__} on {page.url}")
            turn += 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time the dashboard over a large data folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--processor", action="store_true", help="processor seconds of the server, no browser")
    parser.add_argument("--sessions", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=3.0)
    arguments = parser.parse_args()
    if arguments.sessions:
        found = crowd(arguments.folder, arguments.sessions, 60 * arguments.minutes)
        ordered = sorted(found.times) or [float("nan")]
        middle, late = (ordered[min(int(q * len(ordered)), len(ordered) - 1)] for q in (0.5, 0.95))
        print(f"{arguments.sessions} sessions, {arguments.minutes:g} min: {len(found.times)} page loads")
        print(f"median {middle:.2f} s, p95 {late:.2f} s, {len(found.exceptions)} exceptions")
        print(f"experiments written meanwhile: {found.written}; load average {os.getloadavg()[0]:.1f}")
        print("\n".join(sorted(set(found.exceptions))[:5]))
        return
    work = processor if arguments.processor else measure
    for row in work(arguments.folder, arguments.repeat):
        verdict = "met" if row["met"] else "MISSED"
        print(
            f"{row['name']:28} {row['value']:7.3f} s  goal ≤ {row['goal']:<4} {verdict:6}  {row['detail']}", flush=True
        )


if __name__ == "__main__":
    main()
