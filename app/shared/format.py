"""Numbers as the dashboard writes them: percent for fractions, intervals in brackets, a dash for what is missing.

Percent have one decimal in sentences, tooltips (``.1%``) and tables (:data:`PERCENT`); axes and progress have none.
"""

from __future__ import annotations

import math

import pandas as pd

from vmoer.metrics import DEFINITIONS

MISSING = "–"
#: how a table's column writes percent, that is fractions times 100; Streamlit's own ``percent`` has 0 to 2 decimals
PERCENT = "%.1f %%"


def missing(value: object) -> bool:
    """Whether ``value`` is NULL."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def is_percent(metric: str) -> bool:
    """Whether ``metric`` is a fraction that the dashboard shows in percent."""
    return metric in DEFINITIONS and DEFINITIONS[metric].unit == "fraction"


def number(value: float | None, *, percent: bool = False, signed: bool = False) -> str:
    """``value`` with three significant decimals, or as percent with one; signed percent are differences, in points."""
    if missing(value) or value is None:
        return MISSING
    sign = "+" if signed else ""
    text = format(value * 100, f"{sign}.1f") + _unit(signed) if percent else format(value, f"{sign}.3f")
    return text.replace("-", "−")


def interval(
    value: float | None, low: float | None, high: float | None, *, percent: bool = False, signed: bool = False
) -> str:
    """``value [low, high]``; the brackets are left out where there is no interval."""
    text = number(value, percent=percent, signed=signed)
    if missing(value) or missing(low) or missing(high):
        return text
    bounds = [number(bound, percent=percent, signed=signed).removesuffix(_unit(signed)) for bound in (low, high)]
    return f"{text} [{bounds[0]}, {bounds[1]}]"


def _unit(signed: bool) -> str:
    """Percent, or percentage points for the difference of two."""
    return " pp" if signed else " %"
