"""Read and write run manifests: one JSON file per run, the source of the catalog tables and the card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from store import files, layout, schema, shards, signatures, typed
from store.errors import CorruptShardError, CorruptStoreError, InvalidDataError, NewerSchemaError, NotFoundError

STATUSES = ("queued", "running", "finished", "failed", "cancelled")


@dataclass(frozen=True)
class RunManifest:
    """One run: the columns of ``runs``, its model's row, its data sets' rows, its card, and once sealed its shards.

    ``started_at`` and ``ended_at`` are UTC in ISO 8601; ``shards`` maps each table to
    ``[{"name", "sha256", "rows", "steps"}, …]`` and is None until ``seal`` has run. ``steps`` are the keys whose rows a
    shard holds; one that compacting made of shards that did not say theirs has ``merged``, their number, instead.
    """

    run_id: str
    experiment: str
    name: str
    model: dict[str, Any]
    method: str
    estimator: str
    scoring: str
    dtype: str
    device: str
    started_at: str
    datasets: list[dict[str, Any]] = field(default_factory=list)
    control: str = "none"
    layers: list[int] = field(default_factory=list)
    samples: int = 1
    seed: int = 0
    routers: str | None = None
    status: str = "queued"
    error: str | None = None
    n_tokens: int | None = None
    ended_at: str | None = None
    card: dict[str, Any] = field(default_factory=dict)
    shards: dict[str, list[dict[str, Any]]] | None = None

    @property
    def sealed(self) -> bool:
        """Whether the run's shards are final and their hashes recorded."""
        return self.shards is not None

    def run_row(self) -> dict[str, Any]:
        """The run's row of table ``runs``."""
        row = {column: getattr(self, column) for column in schema.TABLES["runs"].column_names if hasattr(self, column)}
        return row | {
            "model": self.model.get("model"),
            "datasets": [dataset.get("dataset") for dataset in self.datasets],
            "started_at": _timestamp(self.started_at),
            "ended_at": _timestamp(self.ended_at),
            "synthetic": self.model.get("synthetic"),
            "manifest": _dump(self.card),
        }

    def dataset_rows(self) -> list[dict[str, Any]]:
        """The rows of table ``datasets`` that this run's experiment used."""
        return [{"experiment": self.experiment, **dataset} for dataset in self.datasets]


def now() -> str:
    """Return the time in UTC as manifests store it: ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_manifest(home: layout.Home, manifest: RunManifest) -> Path:
    """Write a manifest atomically and return its path; refuse by name what does not fit the catalog tables."""
    path = layout.manifest_path(home, manifest.run_id)
    if manifest.status not in STATUSES:
        raise InvalidDataError(f"run {manifest.run_id}: status {manifest.status!r} is not one of {', '.join(STATUSES)}")
    catalog_tables([manifest])
    values = {"schema_version": schema.SCHEMA_VERSION} | asdict(manifest)
    files.write_text(path, _dump(signatures.signed(json.loads(_dump(values))), indent=1) + "\n")
    return path


def read_manifest(home: layout.Home, run_id: str) -> RunManifest:
    """Return the manifest of ``run_id``; raise ``NotFoundError`` when there is none."""
    path = layout.manifest_path(home, run_id)
    try:
        return parse_manifest(path.read_bytes(), run_id)
    except FileNotFoundError:
        raise NotFoundError(f"there is no run {run_id!r} in {home}") from None
    except OSError as error:
        raise CorruptStoreError(f"manifest runs/{path.name} cannot be read: {error}") from error


def find_manifest(home: layout.Home, run_id: str) -> RunManifest | None:
    """Return the manifest of a run, or ``None`` for a run that was never begun."""
    try:
        return read_manifest(home, run_id)
    except NotFoundError:
        return None


def parse_manifest(content: bytes, run_id: str) -> RunManifest:
    """Return the manifest of ``run_id`` from the bytes of its file; raise ``CorruptStoreError`` for damaged ones."""
    name = f"manifest runs/{layout.check_run_id(run_id)}.json"
    try:
        values = json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise CorruptStoreError(f"{name} cannot be read: {error}") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise CorruptStoreError(f"{name} cannot be read: it has no schema_version")
    if version > schema.SCHEMA_VERSION:
        raise NewerSchemaError(shards.newer(name, version))
    unknown = values.keys() - {entry.name for entry in fields(RunManifest)} - {"schema_version", signatures.KEY}
    if unknown and signatures.KEY not in values:  # its checksum may be what is damaged
        raise CorruptStoreError(f"{name} cannot be read: no manifest has a key {min(unknown)[:80]!r}")
    if not signatures.intact(values):
        raise CorruptStoreError(f"{name} is not as it was written: its SHA-256 differs")
    ignored = {*unknown, "schema_version", signatures.KEY}
    values = {key: value for key, value in values.items() if key not in ignored}
    try:
        manifest = RunManifest(**values)
        catalog_tables([manifest])
    except (TypeError, ValueError, AttributeError, InvalidDataError) as error:
        raise CorruptStoreError(f"{name} cannot be read: {error}") from error
    if manifest.run_id != run_id:
        raise CorruptStoreError(f"{name} belongs to another run, {manifest.run_id!r}")
    return manifest


def run_ids(home: layout.Home) -> list[str]:
    """Return the ids of all runs that have a manifest, sorted."""
    folder = layout.runs_folder(home)
    if not folder.is_dir():
        return []
    return sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))


def list_manifests(home: layout.Home, damaged: list[CorruptStoreError] | None = None) -> list[RunManifest]:
    """Return all manifests by run id; add those that cannot be read to ``damaged``, or raise when it is not given."""
    found = []
    for run_id in run_ids(home):
        try:
            found.append(read_manifest(home, run_id))
        except NotFoundError:
            continue  # deleted between the listing and the reading
        except CorruptStoreError as error:
            if damaged is None:
                raise
            damaged.append(error)
    return found


def delete_run(home: layout.Home, run_id: str) -> None:
    """Remove a run's manifest; the next generation is without it, and ``compact`` later removes its shards."""
    path = layout.manifest_path(home, run_id)
    try:
        path.unlink()
    except FileNotFoundError:
        raise NotFoundError(f"there is no run {run_id!r} in {home}") from None
    files.sync_folder(path.parent)


def delete_shards(home: layout.Home, run_id: str) -> None:
    """Delete the shards that a removed run left, before another run of its id begins."""
    for table in schema.tables("fact", "result"):
        for path in shards.list_shards(home, table.name, run_id):
            path.unlink(missing_ok=True)


def remove_duplicate_shards(home: layout.Home, run_id: str) -> None:
    """Delete overlapping shards of an unsealed run, so that no row is stored twice.

    Removed are shards that cannot be read, and merged ones of which a part lies there by itself (compacting leaves what
    it replaced for a while) or in a larger merged one.
    """
    for table in schema.tables("fact", "result"):
        single, merged = set(), []
        for path in shards.list_shards(home, table.name, run_id):
            try:
                steps = shards.check_info(path, table.name, run_id).steps
            except CorruptShardError:
                path.unlink(missing_ok=True)
                continue
            if len(steps) > 1:
                merged.append((path, {shards.shard_name(step) for step in steps}))
            else:
                single.add(path.name)
        for path, parts in sorted(merged, key=lambda one: (-len(one[1]), one[0])):
            if parts & single:
                path.unlink(missing_ok=True)
            else:
                single |= parts


def seal(home: layout.Home, run_id: str, **changes: Any) -> RunManifest:
    """Write the SHA-256 and row count of each shard into the run's manifest and return it.

    ``changes`` set fields in the same write. Call it when the last shard is written, e.g.
    ``seal(home, run_id, status="finished", ended_at=now())``.
    """
    manifest = replace(read_manifest(home, run_id), **changes)
    sweep(home, run_id)
    listed = {
        table.name: [shards.entry(path, table.name, run_id) for path in shards.list_shards(home, table.name, run_id)]
        for table in schema.tables("fact", "result")
    }
    manifest = replace(manifest, shards={table: entries for table, entries in listed.items() if entries})
    write_manifest(home, manifest)
    return manifest


def sweep(home: layout.Home, run_id: str) -> None:
    """Remove what killed writers of a run left behind; to be called when nobody is writing its shards or manifest."""
    for table in schema.tables("fact", "result"):
        for path in layout.shard_folder(home, table.name, run_id).glob(f".*{files.TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)
    for path in layout.runs_folder(home).glob(f".{layout.manifest_path(home, run_id).name}.*{files.TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


def catalog_tables(manifests: Sequence[RunManifest]) -> dict[str, pa.Table]:
    """Return the tables ``models``, ``datasets`` and ``runs`` of ``manifests``; a model's latest row wins."""
    models: dict[str, Mapping[str, Any]] = {}
    datasets: dict[tuple[str, str], Mapping[str, Any]] = {}
    for manifest in sorted(manifests, key=lambda one: (_timestamp(one.started_at) or datetime.min, one.run_id)):
        models[str(manifest.model.get("model"))] = manifest.model
        for row in manifest.dataset_rows():
            datasets[(manifest.experiment, str(row.get("dataset")))] = row
    return {
        "models": _typed("models", list(models.values())),
        "datasets": _typed("datasets", list(datasets.values())),
        "runs": _typed("runs", [manifest.run_row() for manifest in manifests]),
    }


def _typed(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    table = schema.TABLES[name]
    for row in rows:
        unknown = sorted(set(row) - set(table.column_names))
        if unknown:
            raise InvalidDataError(f"table {name} has no column {', '.join(map(repr, unknown))}")
    return typed.arrow_table(table, typed.rows_to_columns(table, rows))


def _timestamp(text: str | None) -> datetime | None:
    """UTC without an offset, as the TIMESTAMP columns hold it."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise InvalidDataError(f"{text!r} is not a time in ISO 8601, e.g. 2026-01-31T12:00:00+00:00") from None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _dump(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise InvalidDataError("a manifest cannot hold NaN or infinity: leave the value out or use null") from error
    except TypeError as error:
        raise InvalidDataError(f"a manifest holds only what JSON can: {error}") from error
