"""What a table is: its columns with type and meaning, and the columns that many tables share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["fact", "result", "derived", "catalog"]


@dataclass(frozen=True)
class Column:
    """One column: its DuckDB type, what it means, and whether NULL (not applicable) is allowed."""

    name: str
    type: str
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table: what one row is, and the columns that identify it."""

    name: str
    kind: Kind
    row: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        """The column called ``name``; raises ``KeyError`` listing the columns there are."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name!r}; it has {', '.join(self.column_names)}")

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def columns(*rows: tuple[str, str, str] | tuple[str, str, str, bool]) -> tuple[Column, ...]:
    """Columns from ``(name, type, meaning)``, with a fourth True where NULL is allowed."""
    return tuple(Column(*row) for row in rows)


RUN = ("run_id", "VARCHAR", "run that produced the row")
DATASET = ("dataset", "VARCHAR", "data set name, as in `datasets.dataset`")
EXAMPLE = ("example_id", "VARCHAR", "example id, unique in its data set")
LAYER = ("layer", "USMALLINT", "absolute 0-based block index")
INTERVAL = (
    ("ci_low", "DOUBLE", "lower end of the 95 % interval", True),
    ("ci_high", "DOUBLE", "upper end of the 95 % interval", True),
)
