"""TruthfulQA with one right answer: ``mc1_targets`` holds the options and a label of 1 for the right one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.layouts.base import Draft, RowError, fixed
from pipelines.data.literals import value_in


def _read(row: Mapping[str, Any]) -> Draft:
    targets = row.get("mc1_targets")
    if isinstance(targets, str):
        try:
            targets = value_in(targets)
        except ValueError:
            targets = None
    if isinstance(targets, dict) and {"choices", "labels"} <= set(targets):
        options, labels = targets["choices"], targets["labels"]
    elif isinstance(targets, dict):  # as published: {"an option": 1, "another": 0}
        options, labels = list(targets), list(targets.values())
    else:
        raise RowError("mc1_targets", "mc1_targets must hold 'choices' and 'labels'")
    if not isinstance(options, list) or not isinstance(labels, list) or len(options) != len(labels):
        raise RowError("mc1_targets", "mc1_targets must hold as many labels as choices")
    right = [place for place, label in enumerate(labels) if label == 1]
    if len(right) != 1 or any(label not in (0, 1) for label in labels):
        raise RowError("mc1_targets", "mc1_targets must have exactly one label 1, the others 0")
    return Draft(row.get("question"), options, right[0])


LAYOUT = fixed(
    "question, mc1_targets (TruthfulQA)", ("question", "mc1_targets"), "mc1_targets", ("numbers from 0",), _read
)
