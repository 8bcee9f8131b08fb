"""The table of adversarial cases: complete, and every test it names exists."""

from __future__ import annotations

import ast
import re

from tests.contract.source import ROOT, tree

TABLE = (ROOT / "tests" / "adversarial" / "CASES.md").read_text(encoding="utf-8")
ROWS = {int(number): rest for number, rest in re.findall(r"^\| (\d+) \| [^|]+ \| (.+) \|$", TABLE, flags=re.M)}


def test_all_48_cases_have_a_row():
    assert sorted(ROWS) == list(range(1, 49))


def test_every_test_that_is_named_exists():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", TABLE)
    assert len(named) > 100
    missing = []
    for file, test in named:
        path = ROOT / "tests" / file
        known = {n.name for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef)} if path.is_file() else set()
        if test not in known:
            missing.append(f"{file}::{test}")
    assert not missing


def test_a_case_without_a_test_says_why():
    bare = {number: rest for number, rest in ROWS.items() if "::" not in rest}
    assert all(re.match(r"(not covered|not a test): \w+", rest) for rest in bare.values())
    assert len(bare) <= 2
