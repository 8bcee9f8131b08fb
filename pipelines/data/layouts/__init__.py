"""The layouts that question files have; a new one is a file here and a line in :data:`LAYOUTS`."""

from __future__ import annotations

from pipelines.data.layouts import (
    boolq,
    hellaswag,
    labelled,
    medmcqa,
    mmlu_pro,
    nested,
    option_columns,
    own,
    piqa,
    prompts,
    sciq,
    truthfulqa,
    winogrande,
)
from pipelines.data.layouts.base import Layout

#: tried in this order; prompts come last, as questions with options hold a prompt too
LAYOUTS: tuple[Layout, ...] = (
    labelled.LAYOUT,
    mmlu_pro.LAYOUT,
    medmcqa.LAYOUT,
    hellaswag.LAYOUT,
    piqa.LAYOUT,
    sciq.LAYOUT,
    truthfulqa.LAYOUT,
    winogrande.LAYOUT,
    boolq.LAYOUT,
    own.LAYOUT,
    option_columns.LAYOUT,
    nested.LAYOUT,
    prompts.LAYOUT,
)


def layout_of(columns: frozenset[str]) -> Layout | None:
    """Return the first layout that these columns fit."""
    return next((layout for layout in LAYOUTS if layout.fits(columns)), None)
