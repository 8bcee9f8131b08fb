"""Question rows of a hub data set, in the columns of the Parquet schema; needs the extra ``hub``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from pipelines.errors import DataError
from pipelines.spec.model import DataSource


def hub_rows(source: DataSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(place, row)`` for each row of a hub data set; the usual column layouts are recognised."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise DataError(
            "a `hub` data set needs the package datasets: pip install -c constraints.txt -e '.[hub]', or give `path`"
        ) from None
    split = source.split or "test"
    try:
        table = datasets.load_dataset(source.hub, source.config, split=split)
    except Exception as error:  # the hub client raises many kinds; the first line says which
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"cannot load {source.hub} ({split}) from the hub: {reason}") from None
    for number, row in enumerate(table):
        yield f"{source.hub} row {number}", normalised_row(dict(row), f"{source.hub}-{split}-{number}")


def normalised_row(row: dict[str, Any], fallback_id: str) -> dict[str, Any]:
    """A row in our columns from the layouts in use: ``answer`` index, or ``answerKey`` with ``choices.label``."""
    choices = row.get("choices")
    answer = row.get("answer")
    if isinstance(choices, dict):
        labels, choices = list(choices.get("label", [])), list(choices.get("text", []))
        key = row.get("answerKey")
        answer = labels.index(key) if key in labels else None
    return {
        "id": str(row.get("id") or fallback_id),
        "question": row.get("question") or row.get("question_stem"),
        "choices": choices,
        "answer": answer,
        "subject": row.get("subject"),
        "source": row.get("source"),
    }
