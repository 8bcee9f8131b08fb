"""Small pieces of SQL that several queries share."""

from __future__ import annotations

from collections.abc import Sequence

from store.reader import Store

RunIds = str | Sequence[str] | None


def ids(run_ids: RunIds) -> list[str] | None:
    """Run ids as the bound value of ``chosen``: None means every run."""
    if run_ids is None:
        return None
    return [run_ids] if isinstance(run_ids, str) else list(run_ids)


def chosen(column: str, parameter: str) -> str:
    """A condition: ``column`` is in the bound list, or the list is NULL."""
    return f"(${parameter}::VARCHAR[] IS NULL OR list_contains(${parameter}::VARCHAR[], {column}))"


def equals(column: str, parameter: str) -> str:
    """A condition: ``column`` equals the bound value, or the value is NULL."""
    return f"(${parameter}::VARCHAR IS NULL OR {column} = ${parameter}::VARCHAR)"


__all__ = ["RunIds", "Store", "chosen", "equals", "ids"]
