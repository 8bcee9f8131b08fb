"""What README and messages promise exists: each ``vmoer …`` line, make targets, paths."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.cli.app import command_tree
from tests.contract.source import PACKAGES, ROOT, name, python_files, tracked, tree

README = (ROOT / "README.md").read_text(encoding="utf-8")
#: ``vmoer`` and what follows it up to the end of the code span, comment or line
SPAN = re.compile(r"`vmoer((?: [^`\n]+)?)`")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """``(language, content)`` of every fenced block."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S):
        yield match[1], match[2]


def documents() -> list[Any]:
    return [path for path in tracked() if path.suffix == ".md" and path.parent in (ROOT, ROOT / "docs")]


def documented() -> Iterator[tuple[str, str]]:
    """``(place, arguments)`` of every ``vmoer …`` that a document, an error message or the container names."""
    for path in documents():
        text = path.read_text(encoding="utf-8")
        for _, content in blocks(text):
            for line in content.splitlines():
                if line.startswith("vmoer "):
                    yield name(path), line.partition("  #")[0].removeprefix("vmoer")
        for match in SPAN.finditer(text):
            yield name(path), match[1]
    for path in python_files(*PACKAGES):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for match in SPAN.finditer(node.value):
                    yield f"{name(path)}:{node.lineno}", match[1]
    command = json.loads(re.findall(r"^CMD (\[.*\])", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)[0])
    assert command[0] == "vmoer"
    yield "Dockerfile", " ".join(command[1:])


DOCUMENTED = sorted({(arguments.strip(), place) for place, arguments in documented()})


def test_commands_are_found_where_they_are_written():
    places = {place.partition(":")[0] for _, place in DOCUMENTED}
    assert {"README.md", "Dockerfile", "store/reader.py", "app/shared/states.py"} <= places


@pytest.mark.parametrize(("arguments", "place"), DOCUMENTED)
def test_every_command_that_is_named_exists_with_those_options(arguments, place):
    """Down the tree of commands; names in capitals and `…` stand for values."""
    command, rest = command_tree(), shlex.split(arguments, comments=True)
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    assert not rest or not getattr(command, "commands", {}) or rest[0].startswith("-"), f"{place}: no `vmoer {rest[0]}`"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    options = [word.partition("=")[0] for word in rest if word.startswith("--")]
    assert set(options) <= known | {"--help"}, f"{place}: `vmoer {arguments}` has no {set(options) - known}"


def test_the_make_targets_exist():
    named = set(re.findall(r"(?:^|`)make (\w+)", README, flags=re.M))
    assert {"demo", "test"} <= named
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    assert named <= targets


def test_every_row_of_make_test_is_a_target_on_tests_that_exist():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    rows = re.findall(r"^ROWS := (.*)$", text, flags=re.M)[0].split()
    assert set(rows) <= set(re.findall(r"^(\w[\w-]*):", text, flags=re.M))
    for folder in re.findall(r"\btests/\w+", text):
        assert list((ROOT / folder).rglob("test_*.py")), f"the Makefile runs {folder}, where there are no tests"


def test_paths_named_in_the_readme_exist():
    named = re.findall(r"`((?:vmoer|store|pipelines|app|tests|docs|benchmarks)/[\w./-]*)`", README)
    assert len(named) > 5
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing
