"""What is built installs beside other people's `app`, `pipelines` and `store`: library and product archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.contract.source import ROOT, name, tracked
from tests.contract.test_readme import README, blocks

PRODUCT = ("app", "pipelines", "store")
MAX_WHEEL_BYTES = 5 * 2**20
SPEC = """
model: worldfacts-moe
stages: [evaluate]
bootstrap: 100
data: {id: {name: worldfacts, split: test, limit: 2}}
"""
#: as `vmoer serve` starts its worker
START = """
import os, sys
from pipelines.serve import processes
from pipelines.settings import Settings
os.environ.pop("PYTHONPATH"), os.environ.pop("PYTHONSAFEPATH")
sys.exit(processes._start([sys.executable, "-m", "pipelines", "--help"], Settings()).wait())
"""


def run(*command: object, folder: Path, code: int = 0, **more: str) -> str:
    """What a command says; nothing of this checkout is on its path."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}
    if "PYTHONPATH" not in more:
        environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def foreign(folder: Path) -> None:
    """Packages of somebody else that have the names of ours."""
    for package in PRODUCT:
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise RuntimeError('a package of somebody else is imported')")


def build(what: str, source: Path, into: Path) -> Path:
    code = f"import sys; from setuptools import build_meta; build_meta.build_{what}(sys.argv[1])"
    run(sys.executable, "-c", code, into, folder=source)
    return next(into.glob("*.tar.gz" if what == "sdist" else "*.whl"))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, unpacked."""
    folder = tmp_path_factory.mktemp("archive")
    for path in tracked():
        target = folder / "source" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    with tarfile.open(build("sdist", folder / "source", folder)) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("vmoer-*/"))


class Environment:
    """A virtual environment that sees the packages installed here, and other people's `app`, `pipelines`, `store`."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", folder=folder)
        self.root = folder / "venv"
        self.python = self.root / "bin" / "python"
        site = next(self.root.glob("lib/python*/site-packages"))
        foreign(site)
        # links in a folder on the path are followed, not the .pth files in it: this checkout's installation is not seen
        (site / "installed_here.pth").write_text(sysconfig.get_path("purelib"))
        self.before = files(self.root)
        self.work = folder / "work"
        self.work.mkdir()
        foreign(self.work)

    def pip(self, *arguments: object) -> None:
        run(sys.executable, "-m", "pip", "--quiet", "--python", self.python, *arguments, folder=self.work)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_the_wheel_is_the_library_alone(unpacked: Path, environment: Environment, tmp_path: Path) -> None:
    wheel = build("wheel", unpacked, tmp_path)
    packed = {entry for entry in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in entry}
    assert packed == {name(path) for path in tracked() if name(path).startswith("vmoer/")}
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES

    environment.pip("install", "--no-deps", "--no-index", wheel)
    (example,) = [content for language, content in blocks(README) if language == "python"]
    checks = f"""
import sys
assert vmoer.__file__.startswith({str(environment.root)!r}), vmoer.__file__
assert not {set(PRODUCT)} & set(sys.modules)
try:
    vmoer.open_runs()
except vmoer.VmoerError as error:
    assert "a checkout or the container" in str(error)
else:
    raise AssertionError("there is no store to read with")
"""
    assert "[" in run(environment.python, "-c", example + checks, folder=environment.work), "overlap and variance"
    for command in ([environment.root / "bin" / "vmoer"], [environment.python, "-m", "vmoer"]):
        said = run(*command, "runs", folder=environment.work, code=2)
        assert said.startswith("vmoer: the command line")
        assert said.count("\n") == 1, "one sentence"

    environment.pip("uninstall", "--yes", "vmoer")
    assert files(environment.root) == environment.before


def test_the_product_runs_from_its_archive(unpacked: Path, environment: Environment) -> None:
    vmoer = environment.root / "bin" / "vmoer"
    environment.pip("install", "--no-deps", "--no-index", "--no-build-isolation", "--editable", unpacked)
    (environment.work / "spec.yaml").write_text(SPEC)
    run(vmoer, "run", "spec.yaml", "--device", "cpu", folder=environment.work)
    read = "import vmoer; vmoer.open_runs()"
    assert "another package 'store'" in run(environment.python, "-c", read, folder=environment.work, code=1)
    first = {"PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"}
    started = run(environment.python, "-c", START, folder=environment.work, **first)
    assert "-m pipelines [OPTIONS]" in started, "the processes of a command are ours, wherever it was given"
    environment.pip("uninstall", "--yes", "vmoer")
    assert files(environment.root) == environment.before
