"""HellaSwag: a context to go on with one of the endings; ``label`` counts them from 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.layouts.base import Draft, fixed, options_in


def _read(row: Mapping[str, Any]) -> Draft:
    options, labels = options_in(row.get("endings"), "endings")
    return Draft(row.get("ctx"), options, row.get("label"), labels)


LAYOUT = fixed("ctx, endings, label (HellaSwag)", ("ctx", "endings", "label"), "label", ("numbers from 0",), _read)
