"""A small published data folder, built once, and copies of it that a test may damage."""

import shutil
from pathlib import Path

import pytest

from store.reader import open_store
from tests.store.factory import make_store, run_id

SMALL = {"layers": 3, "experts": 6, "top_k": 2, "examples": 4, "tokens": (2, 5)}
DET, FCVR = run_id("deterministic"), run_id("fcvr")


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A data folder that no test changes."""
    home = tmp_path_factory.mktemp("built") / "data"
    make_store(home, runs=("deterministic", "fcvr"), **SMALL)
    return home


@pytest.fixture
def home(built, tmp_path) -> Path:
    """A copy of the data folder for one test."""
    return Path(shutil.copytree(built, tmp_path / "data"))


@pytest.fixture
def store(built):
    """The unchanged data folder, opened."""
    with open_store(built) as opened:
        yield opened
