"""What one run has stored in its fact and result tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from store import schema
from store.catalog import read_manifest
from store.publish import shard_paths
from store.shards import ROW_GROUP, list_shards
from store.typed import arrow_schema


@dataclass(frozen=True)
class RunTables:
    """The tables of one run in the data folder ``home``, read from its shards."""

    home: Path
    run_id: str

    def shards(self, name: str) -> list[Path]:
        """Return the shards of one table."""
        manifest = read_manifest(self.home, self.run_id)
        # a sealed run says which shards are its own: compacting leaves replaced ones beside them for a while
        listed = shard_paths(self.home, manifest).get(name, []) if manifest.sealed else None
        return list_shards(self.home, name, self.run_id) if listed is None else listed

    def parts(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield some columns of a table, as many rows at a time as a shard holds in one group."""
        typed = {field.name: field for field in arrow_schema(schema.table(name))}
        wanted = pa.schema([typed[column] for column in columns])
        for path in self.shards(name):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(ROW_GROUP, columns=list(columns)):
                    yield pa.Table.from_batches([batch]).select(list(columns)).cast(wanted)

    def table(self, name: str) -> pa.Table:
        """Return all rows of a table, sorted by its key."""
        spec = schema.table(name)
        parts = [pq.read_table(path, partitioning=None) for path in self.shards(name)]
        if not parts:
            return arrow_schema(spec).empty_table()
        plain = [part.cast(arrow_schema(spec)) for part in parts]
        return pa.concat_tables(plain).sort_by([(column, "ascending") for column in spec.key])
