"""Who may import whom: read from the source, and seen in a fresh process."""

import ast
import json
import subprocess
import sys

import pytest

from tests.contract.source import PACKAGES, ROOT, imports, module, name, python_files, tree

#: package → what it must not import, lazily or not (design §1)
NEVER = {
    "vmoer": {"duckdb", "pyarrow", "streamlit", "altair", "dbos", "store", "pipelines", "app"},
    "store": {"torch", "transformers", "streamlit", "altair", "dbos", "vmoer", "pipelines", "app"},
    "pipelines": {"streamlit", "altair", "app"},
    "app": {"torch", "transformers", "duckdb", "dbos", "safetensors"},
    "tools": {"streamlit", "altair", "dbos", "app"},
}
#: file → what it may import all the same, inside functions only: a table for pyarrow is made when it is asked for
LAZILY = {"vmoer/forward/tables.py": {"pyarrow"}}
#: the rooms of vmoer and pipelines that app may know, all of them torch-free (below)
APP_MAY = (
    "vmoer.methods",
    "vmoer.metrics",
    "pipelines.data",
    "pipelines.errors",
    "pipelines.jobs",
    "pipelines.settings",
    "pipelines.spec",
)

#: what vmoer.metrics may know of vmoer
METRICS_MAY = ("vmoer.metrics", "vmoer.errors")

#: code → modules that must not be loaded afterwards
TORCH_FREE = {
    "import vmoer, vmoer.errors, vmoer.registry; dir(vmoer)": {"torch", "transformers", "duckdb", "streamlit"},
    "import vmoer.metrics; vmoer.metrics.DEFINITIONS": {"torch", "transformers", "duckdb", "streamlit"},
    "import vmoer; vmoer.open_runs": {"torch", "transformers", "duckdb", "pandas", "pyarrow"},
    "import pipelines.jobs.client": {"torch", "transformers", "streamlit"},
    "import pipelines.spec.model, pipelines.spec.runs, pipelines.spec.parts": {"torch", "transformers", "streamlit"},
    "import pipelines.settings": {"torch", "transformers", "streamlit"},
    "import pipelines.data.prompts, pipelines.data.questions": {"torch", "transformers", "streamlit"},
    "import pipelines.data.shown, pipelines.data.files": {"torch", "transformers", "streamlit", "duckdb"},
    "import pipelines.jobs.inspections, pipelines.jobs.allowed, pipelines.data.prompt_files": {
        "torch",
        "transformers",
        "streamlit",
    },
    "import pipelines.cli.app": {"torch", "transformers", "streamlit"},
}


def inside(imported: str, package: str) -> bool:
    return imported == package or imported.startswith(package + ".")


def top_level_lines(path) -> set[int]:
    """Lines of the imports that run when a file is imported."""
    return {node.lineno for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom)}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_imports_across_the_water(package):
    found = [
        f"{name(path)}:{line} imports {imported}"
        for path in python_files(package)
        for line, imported in imports(path)
        if any(inside(imported, banned) for banned in NEVER[package])
        and not (imported in LAZILY.get(name(path), ()) and line not in top_level_lines(path))
    ]
    assert not found, "\n".join(found)


def test_metrics_know_no_torch():
    found = [
        f"{name(path)}:{line} imports {imported}"
        for path in python_files("vmoer")
        if "vmoer/metrics/" in name(path)
        for line, imported in imports(path)
        if any(inside(imported, banned) for banned in ("torch", "transformers"))
        or (inside(imported, "vmoer") and not any(inside(imported, door) for door in METRICS_MAY))
    ]
    assert not found, "\n".join(found)


def test_the_app_knows_only_the_torch_free_doors():
    found = [
        f"{name(path)}:{line} imports {imported}"
        for path in python_files("app")
        for line, imported in imports(path)
        if inside(imported, "vmoer") or inside(imported, "pipelines")
        if not any(inside(imported, door) or door.startswith(imported) for door in APP_MAY)
    ]
    assert not found, "\n".join(found)


def loaded_after(code: str) -> set[str]:
    """Top-level modules in ``sys.modules`` of a fresh process after ``code``."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("code", TORCH_FREE, ids=lambda code: code.split(";")[0])
def test_light_modules_stay_light(code):
    assert not loaded_after(code) & TORCH_FREE[code]


@pytest.mark.parametrize("package", ["store", "app"])
def test_a_whole_package_loads_without_torch(package):
    """Every module at once, so that nothing heavy comes in through a side door."""
    names = [module(path) for path in python_files(package) if not name(path).endswith("/view.py")]
    code = "import logging; logging.disable(logging.CRITICAL)\n" + "\n".join(f"import {n}" for n in names)
    unwanted = {"torch", "transformers", "dbos"} | (
        {"vmoer", "pipelines", "streamlit"} if package == "store" else set()
    )
    assert not loaded_after(code) & unwanted


def test_every_module_loads_on_its_own():
    """No module needs another to have been imported first (third-party packages are loaded beforehand, then forked)."""
    names = [module(path) for path in python_files(*PACKAGES) if not name(path).endswith("/view.py")]
    script = f"""
import importlib, os, sys, warnings, logging
logging.disable(logging.CRITICAL)
import duckdb, numpy, pandas, pyarrow.parquet, sklearn.metrics, torch, streamlit, altair, dbos, pydantic.types, typer
import safetensors.torch, sqlite3, structlog, vl_convert
from transformers import GraniteMoeSharedForCausalLM
failed = []
for name in {names!r}:
    if name.endswith("__main__"):
        continue
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        failed.append(name)
sys.exit(bool(failed))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
