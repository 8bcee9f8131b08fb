"""A running dashboard on a synthetic store, and a headless Chromium to drive it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.serve.dashboard import streamlit_command
from tests.store.factory import make_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Without the switches Chromium itself asks the internet for updates and fails without a sandbox in containers.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
MISSING = (
    "no Chromium found: install Debian's package `chromium` (apt-get install chromium) or put `chromium` on the PATH; "
    "`playwright install` is not needed"
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; without one the tests are skipped, or fail where VMOER_REQUIRE_BROWSER=1."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("VMOER_REQUIRE_BROWSER") == "1":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with five synthetic runs."""
    folder = tmp_path_factory.mktemp("data")
    make_store(folder, layers=8, experts=8, top_k=2, examples=60)
    return folder


@pytest.fixture(scope="session")
def address(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the dashboard listens."""
    yield from serve(home, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="session")
def empty_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a dashboard without any results listens."""
    yield from serve(tmp_path_factory.mktemp("empty") / "data", tmp_path_factory.mktemp("empty-server"))


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: VMOER_ARTIFACTS, else pytest's temporary folder."""
    named = os.environ.get("VMOER_ARTIFACTS")
    folder = Path(named).absolute() if named else tmp_path_factory.mktemp("artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def serve(home: Path, folder: Path) -> Iterator[str]:
    """Run the dashboard on ``home`` from another working directory until the generator is closed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    environment = {**os.environ, "VMOER_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with log.open("w") as stream:
        process = subprocess.Popen(
            streamlit_command(port), cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            wait(f"http://127.0.0.1:{port}/_stcore/health", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=20)


def wait(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> None:
    """Return when ``url`` answers; fail with the server's log when it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()  # noqa: S310
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"the dashboard did not start:\n{log.read_text()}")
