"""The tracked source of this repository, for tests that read it."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("vmoer", "store", "pipelines", "app", "tools")


@functools.cache
def tracked() -> tuple[Path, ...]:
    """Files that belong to the repository: tracked, or new and not ignored; the tree itself where git is absent."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        hidden = (".venv", ".git", "vmoer-data", "__pycache__")
        return tuple(p for p in sorted(ROOT.rglob("*")) if p.is_file() and not set(hidden) & set(p.parts))
    return tuple(ROOT / name for name in listed if name and (ROOT / name).is_file())


@functools.cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Tracked Python files below ``folders`` (all when none is given)."""
    return tuple(
        path
        for path in tracked()
        if path.suffix == ".py" and (not folders or path.relative_to(ROOT).parts[0] in folders)
    )


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported anywhere in a file, inside functions too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name(path)}:{node.lineno} uses a relative import"
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for a chain of attributes, an empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


@functools.cache
def calls(path: Path) -> tuple[tuple[ast.Call, str], ...]:
    """Every call with the dotted name of what is called."""
    return tuple((node, dotted(node.func)) for node in ast.walk(tree(path)) if isinstance(node, ast.Call))
