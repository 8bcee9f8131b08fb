"""Coverage-guided fuzzing of the readers of strangers' files, bounded; ``tests.adversarial.fuzz`` is the long form."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_no_bytes_leave_a_reader_with_anything_but_a_result_or_a_sentence(repository: Path, tmp_path: Path) -> None:
    options = ["-runs=1500", "-max_total_time=10", "-seed=1", "-close_fd_mask=1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.adversarial.fuzz", "all", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done " in done.stderr
