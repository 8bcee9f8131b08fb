"""Print the rooms of the code, and draw them for ``docs/architecture.md``.

``python -m tools.rooms`` counts the modules and lines of every room, circles, and first-party imports inside functions.
``python -m tools.rooms --write`` draws the diagram in the document anew; a test fails when it is out of date.
"""

from __future__ import annotations

import argparse
import ast
import graphlib
import itertools
from collections import Counter, defaultdict
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("app", "pipelines", "store", "vmoer")
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- diagram: python -m tools.rooms --write -->\n", "<!-- end of diagram -->\n"


def graph() -> grimp.ImportGraph:
    """Return the import graph of the product, with imports inside functions and under ``TYPE_CHECKING``."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def room_of(module: str) -> str:
    """Return ``package.room``, or ``package.module`` for a module that lies loose at its package's top."""
    return ".".join(module.split(".")[:2])


def circle(imports: grimp.ImportGraph) -> list[str]:
    """Return the modules of one circle of imports, or an empty list when there is none."""
    sorter = graphlib.TopologicalSorter(
        {name: imports.find_modules_directly_imported_by(name) for name in imports.modules}
    )
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def room_imports(imports: grimp.ImportGraph) -> dict[str, set[str]]:
    """Return for every room the other rooms that its modules import; the packages' own ``__init__`` are left out."""
    found: dict[str, set[str]] = defaultdict(set)
    for importer in imports.modules - set(PACKAGES):
        for imported in imports.find_modules_directly_imported_by(importer) - set(PACKAGES):
            if room_of(importer) != room_of(imported):
                found[room_of(importer)].add(room_of(imported))
    return found


def files() -> list[Path]:
    """Return every module of the product."""
    return sorted(itertools.chain.from_iterable((ROOT / package).rglob("*.py") for package in PACKAGES))


def hidden_imports() -> list[str]:
    """Return ``file:line`` of every first-party import that is not at the top of its module.

    The lazy public names of ``vmoer/__init__.py`` are the one exception: ``import vmoer`` must not load torch.
    """
    found = []
    for path in files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            if id(node) in top or not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if any(name.split(".")[0] in PACKAGES for name in names):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return [where for where in found if not where.startswith("vmoer/__init__.py:")]


def diagram(imports: grimp.ImportGraph) -> str:
    """Return a Mermaid diagram: a box per room, an arrow per import that no other path of arrows implies.

    Loose modules are boxes too, but for those that import nothing of the product (errors, settings).
    """
    below = room_imports(imports)
    reach: dict[str, set[str]] = {}

    def reachable(room: str) -> set[str]:
        if room not in reach:
            reach[room] = set(below.get(room, ())).union(*(reachable(other) for other in below.get(room, ())))
        return reach[room]

    lines = ["```mermaid", "flowchart TD"]
    rooms = sorted(room for room in {room_of(module) for module in imports.modules} if below.get(room))
    for package in PACKAGES:
        lines.append(f"  subgraph {package}")
        lines += [f"    {room}[{room.partition('.')[2]}]" for room in rooms if room.startswith(f"{package}.")]
        lines.append("  end")
    for room in rooms:
        implied = set().union(*(reachable(other) for other in below[room]))
        lines += [f"  {room} --> {other}" for other in sorted(below[room] - implied) if below.get(other)]
    return "\n".join([*lines, "```", ""])


def document() -> str:
    """Return ``docs/architecture.md`` with the diagram of the code as it is."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + diagram(graph()) + END + rest.partition(END)[2]


def table() -> str:
    """Return modules and lines per room, loose modules per package, circles and hidden imports as text."""
    modules: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for path in files():
        room = "/".join(path.relative_to(ROOT).parts[:-1][:2])
        modules[room] += 1
        lines[room] += len(path.read_text(encoding="utf-8").splitlines())
    rows = [f"{room:32}{modules[room]:>8}{lines[room]:>8}" for room in sorted(modules)]
    total = f"{'all':32}{sum(modules.values()):>8}{sum(lines.values()):>8}"
    found = circle(graph())
    return "\n".join(
        [
            f"{'room':32}{'modules':>8}{'lines':>8}",
            *rows,
            total,
            f"circles: {' → '.join(found) if found else 0}",
            f"first-party imports inside functions: {', '.join(hidden_imports()) or 0}",
        ]
    )


def main() -> None:
    """Print the table, or write the diagram."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="draw the diagram of docs/architecture.md anew")
    if parser.parse_args().write:
        DOCUMENT.write_text(document(), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
