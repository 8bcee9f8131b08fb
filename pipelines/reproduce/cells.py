"""A section of the suite's document and the text of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pipelines.reproduce.results import base_name


@dataclass
class Section:
    """A heading, what to know before reading, and a table of text cells (none when ``rows`` is empty)."""

    title: str
    text: str
    header: Sequence[str] = ()
    rows: list[list[str]] = field(default_factory=list)


def run_label(run: pd.Series) -> str:
    """A run in words: method, estimator and control, or the base of a deterministic one."""
    if run["method"] == "deterministic":
        return f"deterministic, {base_name(run)}"
    control = "" if run["control"] == "none" else f" ({run['control']})"
    return f"{run['method']} {run['estimator']}{control}"


def cell(value: Any) -> str:
    """A number with three decimals, or a dash where there is none."""
    return "–" if value is None or pd.isna(value) else f"{value:.3f}"


def interval_text(low: Any, high: Any) -> str:
    """``low to high`` with three decimals, or a dash where there is no interval."""
    return "–" if low is None or pd.isna(low) or pd.isna(high) else f"{low:.3f} to {high:.3f}"


def percent_text(low: float | None, high: float | None) -> str:
    """``low to high`` in percent, or a dash where there is no interval."""
    return "–" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f} %"


def difference_text(row: pd.Series | None) -> str:
    """A paired difference with its interval; a dash where there is none."""
    if row is None:
        return "–"
    ends = "" if pd.isna(row["ci_low"]) else f" ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})"
    return f"{row['difference']:+.3f}{ends}"


def spans(numbers: Sequence[int]) -> str:
    """Ascending integers with neighbours joined: ``0–3, 7``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in found)
