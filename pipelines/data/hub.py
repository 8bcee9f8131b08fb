"""Rows of a hub data set, to be read like those of a file; needs the extra ``hub``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence

from pipelines.data.rows import Row, Rows, column_names
from pipelines.errors import DataError
from pipelines.spec.sections import DataSource


def hub_rows(source: DataSource) -> Rows:
    """Return the rows of a hub data set's split, ``test`` when the source names none."""
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
    names = column_names(table.column_names, str(source.hub))

    def read(wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
        for number, row in enumerate(table):
            yield f"{source.hub} row {number}", {key: row.get(given) for key, given in names.items()}

    return Rows("hub", tuple(names), read)
