"""The order of these tests, and one undisturbed run of the small experiment, which many of them look at."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.pipelines.support import SPEC, vmoer

#: the files that take longest, in this order: whoever starts one of them last waits for it alone
LONGEST = (
    "test_refusals",
    "test_spread",
    "test_bases",
    "test_kills",
    "test_engine",
    "test_live",
    "test_thesis_reproduce",
    "test_thesis_documents",
    "test_worst_day",
    "test_machines",
    "test_stopped",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, every other where it was."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def spec_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("spec") / "small.yaml"
    file.write_text(yaml.safe_dump(SPEC))
    return file


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, spec_file: Path) -> Path:
    home = tmp_path_factory.mktemp("undisturbed")
    done = vmoer(home, "run", str(spec_file), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return home
