"""What the adversarial tests share: the command line in this process, a data folder, a picture of what it holds."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.app import run
from tests.store.factory import make_store


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error, and the last line of the latter."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The line that says what was wrong."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


Vmoer = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A proxy that refuses at once stands for a machine without network; nothing is cached."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("VMOER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder the command line uses; not there yet."""
    return tmp_path / "home"


@pytest.fixture
def vmoer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Vmoer:
    """``vmoer(*arguments)`` runs the command line in this process on :func:`folder`."""
    monkeypatch.setenv("VMOER_HOME", str(folder))

    def call(*arguments: str) -> Outcome:
        # not pytest's capture, which closes its streams: the job engine's log handler keeps the one it first saw
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(list(arguments))
        assert "Traceback" not in err.getvalue() + out.getvalue()
        return Outcome(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published data folder with two synthetic runs that no test changes."""
    home = tmp_path_factory.mktemp("built") / "data"
    make_store(home, runs=("deterministic", "fcvr"), layers=3, experts=6, top_k=2, examples=4, tokens=(2, 5), text=True)
    return home


@pytest.fixture
def published(built: Path, folder: Path) -> Path:
    """A copy of the published data folder, where the command line looks for it."""
    return Path(shutil.copytree(built, folder))


def picture(folder: Path) -> dict[str, str]:
    """Every file below ``folder`` with the hash of its content, job records and locks aside."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in ("jobs.sqlite", "logs", "workers")
        if not path.name.startswith("jobs.sqlite") and not path.name.endswith(".lock")
    }


def mutations(content: bytes, count: int, seed: int) -> Any:
    """``count`` damaged copies: bytes flipped, cut, doubled, spliced, and header numbers swapped."""
    generator = random.Random(seed)
    for _ in range(count):
        data = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(data))
            match generator.randrange(5):
                case 0:
                    data[at] ^= 1 << generator.randrange(8)
                case 1:
                    del data[at : at + generator.randint(1, 64)]
                case 2:
                    data[at:at] = data[at : at + generator.randint(1, 64)]
                case 3:
                    data[at : at + 4] = generator.choice([b"\0" * 4, b"\xff" * 4, b"9999", b"-1,0", b'"":{'])
                case _:
                    other = generator.randrange(len(data))
                    data[at : at + 8] = data[other : other + 8]
            if not data:
                break
        yield bytes(data) or b"\0"
