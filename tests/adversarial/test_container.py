"""As in the container: no home folder, nothing writable but the data folder, ended by SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

#: in a mount namespace of its own: the data folder stays writable, everything else on the root disk does not
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec "$@"'


def read_only(folder: Path, *command: str) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", READ_ONLY, str(folder), *command]


def namespaces_work(folder: Path) -> bool:
    """Whether this user may make mount namespaces."""
    try:
        return subprocess.run(read_only(folder, "true"), capture_output=True).returncode == 0
    except OSError:
        return False


def test_the_command_line_works_where_nothing_but_the_data_folder_can_be_written(tmp_path: Path) -> None:
    """Without a home folder or a user name in the environment, on a read-only root disk."""
    data = tmp_path / "data"
    data.mkdir()
    if not namespaces_work(data):
        pytest.skip("mount namespaces are not allowed here")
    (tmp_path / "spec.yaml").write_text(
        "model: worldfacts-moe\nstages: [evaluate]\nbootstrap: 100\n"
        "data: {id: {name: worldfacts, split: test, limit: 2}}\n"
    )
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    environment |= {
        "VMOER_HOME": str(data), "VMOER_CACHE": str(data / "cache"), "TMPDIR": str(data), "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "pipelines", "run", str(tmp_path / "spec.yaml"), "--device", "cpu"]
    done = subprocess.run(read_only(data, *command), cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (data / "CURRENT").is_file()
    assert not list(tmp_path.glob("*.tmp"))


def test_sigterm_ends_the_worker_in_order(tmp_path: Path) -> None:
    environment = {**os.environ, "VMOER_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "worker", "--device", "cpu"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "worker ready on cpu" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0
    assert "stopping" in said
    assert "Traceback" not in said
