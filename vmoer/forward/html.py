"""What a notebook shows of our objects: small HTML tables in which every text is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def facts_html(title: str, facts: Mapping[str, object]) -> str:
    """Return a title and a table of names with their values."""
    rows = "".join(f"<tr><th>{_cell(name)}</th><td>{_cell(value)}</td></tr>" for name, value in facts.items())
    return f"<p><b>{_cell(title)}</b></p><table>{rows}</table>"


def rows_html(columns: Mapping[str, NDArray[Any]], most: int) -> str:
    """Return the first rows of columns as a table; numbers have four significant digits."""
    head = "".join(f"<th>{_cell(name)}</th>" for name in columns)
    length = min(most, *(len(values) for values in columns.values()))
    rows = (
        "".join(f"<td>{_cell(_short(values[place]))}</td>" for values in columns.values()) for place in range(length)
    )
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _cell(value: object) -> str:
    return html.escape(str(value))


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return ", ".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
