"""What is public is documented: docstrings, routing methods with their options, quarantined tests."""

import ast
import inspect
import re

import pytest

from tests.contract.source import PACKAGES, ROOT, name, python_files, tree
from vmoer.routers import routers

#: what every router takes, described once: drawn by ``bayesianize``, measured by it, or an option of all methods
COMMON = {"generator", "logit_scale", "noise_scale"}
#: what a stage module provides is described once, in ``pipelines/stages/__init__.py``
STAGE = {"applies", "plan", "compute", "summarise"}

QUARANTINES = ROOT / "tests" / "QUARANTINES.md"


def public_definitions(path):
    """``(qualified name, node)`` of public functions and classes, methods included, that must explain themselves."""
    for node in tree(path).body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            inherits = bool(node.bases)
            for member in node.body:
                if not isinstance(member, ast.FunctionDef) or member.name.startswith("_"):
                    continue
                is_property = any(ast.unparse(d) == "property" for d in member.decorator_list)
                if not inherits and not is_property:
                    yield f"{node.name}.{member.name}", member


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package):
    missing = [f"{name(path)}: module" for path in python_files(package) if not ast.get_docstring(tree(path))]
    for path in python_files(package):
        for qualified, node in public_definitions(path):
            if name(path).startswith("pipelines/stages/") and qualified in STAGE:
                continue
            if not ast.get_docstring(node):
                missing.append(f"{name(path)}:{node.lineno} {qualified}")
    assert not missing, "\n".join(missing)


def methods_document():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.M)[1:]
    return {part.splitlines()[0].strip(): part for part in parts}


@pytest.mark.parametrize("method", routers.names())
def test_every_method_has_a_section_with_its_options_and_defaults(method):
    section = methods_document().get(f"`{method}`")
    assert section, f"docs/methods.md has no section ## `{method}`"
    for heading in ("**Options**", "**Trained**", "**Cannot**"):
        assert heading in section, f"{method}: {heading} is missing"
    for parameter in inspect.signature(routers.get(method).__init__).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.name not in COMMON:
            assert f"`{parameter.name}`" in section, f"{method}: option {parameter.name} is not described"
            if isinstance(parameter.default, (int, float)):
                described = re.search(rf"`{parameter.name}` \(default:? ([^)]+)\)", section)
                assert described, f"{method}: the default of {parameter.name} is not said"
                assert float(described[1]) == parameter.default, f"{method}: the default of {parameter.name} is another"


@pytest.mark.parametrize("option", sorted(COMMON - {"generator"}))
def test_options_of_all_methods_are_described_once(option):
    assert f"`{option}`" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_no_section_describes_a_method_that_is_gone():
    described = {heading.strip("`") for heading in methods_document() if heading.startswith("`")}
    assert described == set(routers.names())


def test_the_methods_page_names_every_estimator_and_selection_rule():
    from vmoer.handle import ESTIMATORS
    from vmoer.layers import MEASURED

    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for word in (*ESTIMATORS, *MEASURED, "last:n"):
        assert f"`{word}" in text, word


def suppressed():
    """``(file, line)`` of everything in the tests that can keep a test from running or from failing."""
    marks = {"skip", "skipif", "xfail", "importorskip"}
    for path in python_files("tests"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and node.attr in marks and ast.unparse(node).startswith("pytest."):
                yield name(path), node.lineno


def test_every_skip_and_xfail_has_a_row_in_the_quarantines():
    rows = re.findall(r"^\|\s*`([^`]+)`\s*\|\s*(\S[^|]*)\|\s*(\S[^|]*)\|", QUARANTINES.read_text("utf-8"), flags=re.M)
    listed = {file for file, _, _ in rows}
    found = {file for file, _ in suppressed()}
    unlisted = [f"{file}:{line}" for file, line in suppressed() if file not in listed]
    assert not unlisted, f"no row in tests/QUARANTINES.md for: {unlisted}"
    assert not listed - found, f"rows of files that skip nothing any more: {sorted(listed - found)}"
