"""``docs/notebook.md`` runs as it stands, and shows what it says it shows."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.contract.source import ROOT
from tests.contract.test_readme import blocks
from tests.store.conftest import SMALL
from tests.store.factory import make_store

PAGE = (ROOT / "docs" / "notebook.md").read_text(encoding="utf-8")
CODE = [content for language, content in blocks(PAGE) if language == "python"]
CHECKS = """
import json
seen = json.loads(chart.to_json())
tokens = out.shape[1] - 1
assert len(frame) == frame["layer"].nunique() * tokens, "each token once; the last is not fed"
assert frame["example"].unique().tolist() == [0], "the steps of a generation are one example"
assert "variance" in str(seen["encoding"]) and len(next(iter(seen["datasets"].values()))) == len(frame)
"""


def run(code: str, folder: object = ROOT) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(folder), env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


def test_load_bayesianize_record_and_plot_in_twenty_lines() -> None:
    assert len(CODE[0].splitlines()) <= 20
    run(CODE[0] + CHECKS)


def test_stored_runs_are_read_without_torch(tmp_path) -> None:
    make_store(tmp_path / "vmoer-data", runs=("deterministic", "fcvr"), **SMALL)
    run(f"{CODE[1]}\nimport sys\nassert len(answers) and len(means) and 'torch' not in sys.modules", tmp_path)
