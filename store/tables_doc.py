"""``docs/tables.md`` from the schema: ``python -m store.tables_doc`` writes it, a test checks that it is current."""

from __future__ import annotations

from pathlib import Path

from store import schema

PATH = Path(__file__).resolve().parent.parent / "docs" / "tables.md"

_KINDS = {
    "catalog": "Catalog: one row per run, model or data set, from the run manifests",
    "fact": "Facts: immutable Parquet shards",
    "result": "Results: small tables per run, written as shards and copied into each generation",
    "derived": "Derived: additive sums over the facts, made when a generation is published",
}


def markdown() -> str:
    """The text of ``docs/tables.md``."""
    lines = [
        "# Tables",
        "",
        f"Schema version {schema.SCHEMA_VERSION}. Made from `store/schema.py` by `python -m store.tables_doc`.",
        "",
        "Fractions, never percent; nats; `layer` is the absolute 0-based block index; `position` is the token's index",
        "without padding; times are UTC. NULL means *not applicable*; NaN is never stored.",
    ]
    for kind, heading in _KINDS.items():
        lines += ["", f"## {heading}"]
        for table in schema.tables(kind):  # type: ignore[arg-type]
            lines += ["", f"### `{table.name}`", ""]
            lines += [f"One row: {table.row}. Key: {', '.join(f'`{name}`' for name in table.key)}.", ""]
            lines += ["| column | type | NULL | meaning |", "|---|---|---|---|"]
            for column in table.columns:
                nullable = "yes" if column.nullable else ""
                meaning = column.meaning.replace("|", "\\|")
                lines.append(f"| `{column.name}` | `{column.type}` | {nullable} | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PATH.write_text(markdown(), encoding="utf-8")
