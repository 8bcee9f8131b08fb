"""The house rules: few loose modules, a docstring on every room's door, imports that go down only, a true diagram."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.source import PACKAGES, ROOT, python_files
from tools import rooms

MAX_LOOSE = 10
FOLDERS = sorted({path.parent for path in python_files(*PACKAGES)} - {ROOT / package for package in PACKAGES})


@pytest.fixture(scope="module")
def imports():
    return rooms.graph()


@pytest.mark.parametrize("package", ["vmoer", "pipelines", "app"])
def test_at_most_ten_modules_lie_loose(package):
    loose = [path.name for path in (ROOT / package).glob("*.py") if not path.name.startswith("__")]
    assert len(loose) <= MAX_LOOSE, loose


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_room_says_what_it_is_for(folder: Path):
    init = folder / "__init__.py"
    assert init.is_file(), "a room without an __init__.py"
    text = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
    sentences = len(re.findall(r"[.!?](?=\s|$)", text))
    assert 1 <= sentences <= 3, f"{sentences} sentences: {text!r}"


def test_no_circle_of_imports(imports):
    assert rooms.circle(imports) == []


def test_first_party_imports_stand_at_the_top():
    assert rooms.hidden_imports() == []


def test_the_layers_hold():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_the_diagram_is_that_of_the_code():
    assert rooms.DOCUMENT.read_text("utf-8") == rooms.document(), "run `python -m tools.rooms --write`"
