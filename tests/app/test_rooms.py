"""Who uses what in the dashboard: rooms keep their order, and what is shared is shared by three pages."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from app import pages
from tests.contract.source import imports, module, name, python_files

LEAST_PAGES, MOST_LOOSE = 3, 10


@cache
def known() -> dict[str, Path]:
    """Files of the dashboard by module name."""
    return {module(path): path for path in python_files("app")}


@cache
def needed(start: str) -> frozenset[str]:
    """Modules of the dashboard that ``start`` imports, and what these import."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        now = {one for _, one in imports(known()[waiting.pop()]) if one in known()} - found
        found |= now
        waiting += now
    return frozenset(found)


def test_what_is_shared_is_used_by_three_pages() -> None:
    used: dict[str, set[str]] = {one: set() for one in known() if one.startswith("app.shared.")}
    for page in pages.PAGES:
        for one in needed(f"app.views.{page.name}.view") & set(used):
            used[one].add(page.name)
    few = {one: sorted(by) for one, by in used.items() if len(by) < LEAST_PAGES}
    assert not few, f"belongs to a page or to a room with a purpose: {few}"
    assert used


def test_a_room_below_the_pages_is_used_by_two() -> None:
    rooms = {path.parent.name for path in python_files("app")} - {"app", "views", "shared", "serving"}
    rooms -= {page.name for page in pages.PAGES}
    for room in rooms:
        by = {
            page.name
            for page in pages.PAGES
            if any(one.startswith(f"app.{room}.") for one in needed(f"app.views.{page.name}.view"))
        }
        assert len(by) > 1, f"app/{room} is used by {sorted(by)} alone"


def test_few_modules_lie_loose() -> None:
    assert len([path for path in python_files("app") if name(path).count("/") == 1]) <= MOST_LOOSE
