"""docs/extending.md, the parts that are added to a checkout: done to a copy as they stand, and used there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.source import ROOT, tracked

TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^```python (file|line|check)(?:=\"([^\"]+)\")?(?: after=\"((?:[^\"\\]|\\.)+)\")?\n(.*?)^```", re.M | re.S
)
#: heading → what is added there: a file, its lines in tables, a check
SECTIONS = {
    part.splitlines()[0]: found for part in re.split(r"^## ", TEXT, flags=re.M)[1:] if (found := BLOCK.findall(part))
}


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with everything that the page adds."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in tracked():
        if path.suffix != ".zip":
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for blocks in SECTIONS.values():
        for kind, name, after, code in blocks:
            if kind == "file":
                (copy / name).parent.mkdir(exist_ok=True)
                (copy / name).write_text(code, encoding="utf-8")
            elif kind == "line":
                lines = (copy / name).read_text(encoding="utf-8").splitlines(keepends=True)
                (place,) = (n for n, line in enumerate(lines) if line.startswith(after.replace('\\"', '"')))
                (copy / name).write_text("".join([*lines[: place + 1], code, *lines[place + 1 :]]), encoding="utf-8")
    return copy


def test_the_page_adds_a_part_to_every_table() -> None:
    assert list(SECTIONS) == [
        "A metric of answers",
        "A stage",
        "A command",
        "A page",
        "A layout of question files",
    ]
    for blocks in SECTIONS.values():
        kinds = [kind for kind, *_ in blocks]
        assert kinds.count("check") == 1
        assert {"file", "line"} < set(kinds)


def test_every_part_works_as_it_is_described(extended: Path) -> None:
    for heading, blocks in SECTIONS.items():
        (code,) = (code for kind, _, _, code in blocks if kind == "check")
        env = {**os.environ, "PYTHONPATH": str(extended), "VMOER_HOME": str(extended / "vmoer-data")}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=extended, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{heading}:\n{done.stdout}{done.stderr}"


def test_the_house_rules_hold_with_every_part_added(extended: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(extended)}
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=extended, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
