"""What all tests share: where the repository is, and skipping what needs the real question sets."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# tiny matrices: more threads only wait for each other (ten times slower on a busy machine)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# how long an example takes, or to make it, says how busy the machine is
settings.register_profile("vmoer", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vmoer")

ROOT = Path(__file__).resolve().parents[1]
MCQA = ROOT.parent / "shared" / "data" / "mcqa"


def pytest_collection_modifyitems(items):
    if MCQA.is_dir():
        return
    if os.environ.get("VMOER_REQUIRE_MCQA") == "1":
        pytest.exit(f"VMOER_REQUIRE_MCQA=1, but there are no question sets in {MCQA}", returncode=1)
    for item in items:
        if item.get_closest_marker("mcqa"):
            item.add_marker(pytest.mark.skip(reason="needs the question sets in ../shared/data/mcqa"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository root."""
    return ROOT
