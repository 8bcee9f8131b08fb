"""One undisturbed run of the small experiment, shared by the tests that compare with it or look at it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.pipelines.support import SPEC, vmoer


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
