# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Publish: build the next DuckDB generation beside the current one and swap the pointer, one process at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from store import engine, files, layout, locks, schema, shards, signatures, summaries
from store.catalog import RunManifest, catalog_tables, list_manifests
from store.errors import CorruptStoreError, MissingStoreError, PublisherBusyError, StoreError

KEEP_GENERATIONS = 3
KEEP_SECONDS = 600.0

# What a generation knows about itself; not part of the schema that users query.
_OWN_TABLES = """
CREATE TABLE store_meta (schema_version INTEGER, generation BIGINT, published_at TIMESTAMP);
CREATE TABLE store_fingerprints (run_id VARCHAR, fingerprint VARCHAR);
CREATE TABLE store_shards (table_name VARCHAR, run_id VARCHAR, path VARCHAR, sha256 VARCHAR);
CREATE TABLE store_manifests (run_id VARCHAR, sha256 VARCHAR);
CREATE TABLE store_problems (run_id VARCHAR, table_name VARCHAR, sentence VARCHAR);
"""


def publish(home: layout.Home, timeout: float = 60.0, reuse: bool = True) -> int:
    """Publish the data folder and return the number of the new generation.

    Rows of runs whose shards have not changed are copied from the previous generation; the others are read and
    summarised again. Runs that are queued, running or failed appear with what they have. A run whose shards cannot be
    read does not stop the others: it is listed in ``Store.problems``. Waits up to ``timeout`` seconds for another
    publisher. Without ``reuse`` nothing is copied: every row is made anew from the shards.
    """
    with _only_publisher(home, timeout):
        _sweep(home)
        current = readable_pointer(home)
        number = max([*generations(home), current], default=0) + 1
        path = layout.generation_path(home, number)
        previous = _usable(layout.generation_path(home, current)) if current and reuse else None
        with files.replacing(path) as temporary:
            try:
                _build(home, temporary, number, previous)
            except duckdb.Error as error:
                refused = files.cannot_write(path.name, error)
                if refused is not None:
                    raise refused from error
                if previous is None:
                    raise StoreError(f"{path.name} cannot be built: {engine.first_line(error)}") from error
                # The previous file opened but could not be copied from: everything can be made from the shards.
                files.remove_with_sides(temporary)
                _build(home, temporary, number, None)
        files.write_text(layout.current_path(home), signatures.signed_line(path.name) + "\n")
        _prune(home, number)
        return number


def generations(home: layout.Home) -> list[int]:
    """Return the numbers of the generation files there are, ascending."""
    folder = layout.generations_folder(home)
    if not folder.is_dir():
        return []
    found = (layout.generation_number(path.name) for path in folder.iterdir())
    return sorted(number for number in found if number is not None)


def current_number(home: layout.Home) -> int | None:
    """Return the number in CURRENT, None before the first publication; raise ``CorruptStoreError`` on anything else."""
    try:
        text = signatures.word_of(layout.current_path(home).read_text(encoding="utf-8").strip()) or ""
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorruptStoreError(f"the file CURRENT in {home} cannot be read: {error}") from error
    number = layout.generation_number(text)
    if number is None:
        raise CorruptStoreError(f"the file CURRENT in {home} names no generation: publish again to write a new one")
    return number


def refuse_newer(home: layout.Home) -> None:
    """Raise ``NewerSchemaError`` when a newer version published last, before anything is written."""
    number = current_number(home)
    if number is not None:
        with engine.connect(threads=1) as connection, contextlib.suppress(MissingStoreError, CorruptStoreError):
            engine.attach_generation(connection, layout.generation_path(home, number))


def shard_paths(home: layout.Home, manifest: RunManifest) -> dict[str, list[Path]]:
    """Return the run's shards by table: those recorded when it was sealed, or those there are now."""
    if manifest.shards is not None:
        return {
            table: [layout.shard_path(home, table, manifest.run_id, str(entry["name"])) for entry in entries]
            for table, entries in manifest.shards.items()
        }
    return {
        table.name: found
        for table in schema.tables("fact", "result")
        if (found := shards.list_shards(home, table.name, manifest.run_id))
    }


def _only_publisher(home: layout.Home, timeout: float) -> AbstractContextManager[None]:
    busy = PublisherBusyError(
        f"another process is publishing results in {home}; waited {timeout:g} s for it: try again later"
    )
    return locks.exclusive(layout.generations_folder(home) / ".lock", timeout, busy)


def _build(home: layout.Home, target: Path, number: int, previous: Path | None) -> None:
    damaged: list[CorruptStoreError] = []
    manifests = list_manifests(home, damaged)
    problems = [("", "runs", str(error)) for error in damaged]
    with engine.connect(target, threads=1) as connection:
        known = _attach(connection, previous)
        connection.execute("BEGIN")
        for statement in _OWN_TABLES.split(";"):
            connection.execute(statement)
        for table in schema.tables("catalog", "result", "derived"):
            connection.execute(engine.create(table))
        for name, rows in catalog_tables(manifests).items():
            _insert(connection, name, rows)
        own = {"run_id": [one.run_id for one in manifests], "sha256": [manifest_digest(one) for one in manifests]}
        _insert(connection, "store_manifests", pa.table(own, pa.schema(dict.fromkeys(own, pa.string()))))
        described, refused = _described(home, manifests)
        problems += refused
        kept = [one for one in described if known.get(one.manifest.run_id) == one.fingerprint]
        _copy_runs(connection, kept)
        with _Reader() as reader:
            for one in described:
                if known.get(one.manifest.run_id) != one.fingerprint:
                    problems += _add_run(connection, reader, home, one)
        for problem in problems:
            connection.execute("INSERT INTO store_problems VALUES (?, ?, ?)", problem)
        connection.execute(
            "INSERT INTO store_meta VALUES (?, ?, ?)",
            [schema.SCHEMA_VERSION, number, datetime.now(UTC).replace(tzinfo=None)],
        )
        connection.execute("COMMIT")
        if previous is not None:
            connection.execute("DETACH previous")
        connection.execute("CHECKPOINT")


def _attach(connection: duckdb.DuckDBPyConnection, previous: Path | None) -> dict[str, str]:
    """Run ids and fingerprints of the previous generation, attached as ``previous``."""
    if previous is None:
        return {}
    connection.execute(f"ATTACH {engine.literal(str(previous))} AS previous (READ_ONLY)")
    # A run with a problem is read again each time: its shards may have been restored since.
    return dict(
        connection.execute(
            "SELECT run_id, fingerprint FROM previous.store_fingerprints "
            "WHERE run_id NOT IN (SELECT run_id FROM previous.store_problems)"
        ).fetchall()
    )


@dataclass(frozen=True)
class _Described:
    """A run with its shards and what its rows follow from."""

    manifest: RunManifest
    paths: dict[str, list[Path]]
    fingerprint: str


class _Reader:
    """One connection for the shards of many runs; a new one after a damaged shard, which may have made it useless."""

    def __init__(self) -> None:
        self.connection = engine.connect(threads=1)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def renew(self) -> None:
        self.connection.close()
        self.connection = engine.connect(threads=1)


def _described(
    home: layout.Home, manifests: Sequence[RunManifest]
) -> tuple[list[_Described], list[tuple[str, str, str]]]:
    """The runs whose lists of shards can be read, and the others as rows of ``store_problems``."""
    found, problems = [], []
    for manifest in manifests:
        try:
            paths = shard_paths(home, manifest)
            found.append(_Described(manifest, paths, _fingerprint(manifest, paths)))
        except (StoreError, OSError, KeyError, TypeError) as error:
            sentence = f"run {manifest.run_id}: its list of shards cannot be read: {error}"
            problems.append((manifest.run_id, "runs", sentence))
    return found, problems


def _copy_runs(connection: duckdb.DuckDBPyConnection, kept: Sequence[_Described]) -> None:
    """Insert the rows of unchanged runs from the attached previous generation, a table at a time."""
    if not kept:
        return
    connection.register("kept", pa.table({"run_id": [one.manifest.run_id for one in kept]}))
    own = ("store_fingerprints", "store_shards")
    for name in [*own, *(table.name for table in schema.tables("result", "derived"))]:
        connection.execute(
            f'INSERT INTO "{name}" SELECT * FROM previous."{name}" WHERE run_id IN (SELECT run_id FROM kept)'
        )
    connection.unregister("kept")


def _add_run(
    connection: duckdb.DuckDBPyConnection, reader: _Reader, home: layout.Home, one: _Described
) -> list[tuple[str, str, str]]:
    """Insert the rows of a run from its shards; return the problems met as rows of ``store_problems``."""
    problems: list[tuple[str, str, str]] = []
    manifest, run_id = one.manifest, one.manifest.run_id
    tables = summaries.run_tables(
        reader.connection, manifest, one.paths, lambda name, error: problems.append((run_id, name, str(error)))
    )
    if problems:
        reader.renew()
    for name, rows in tables.items():
        _insert(connection, name, rows)
    connection.execute("INSERT INTO store_fingerprints VALUES (?, ?)", [run_id, one.fingerprint])
    hashes = {
        (table_name, entry["name"]): entry["sha256"]
        for table_name, entries in (manifest.shards or {}).items()
        for entry in entries
    }
    places = [(table_name, path) for table_name, found in one.paths.items() for path in found]
    listed = pa.table(
        {
            "table_name": pa.array([table_name for table_name, _ in places], pa.string()),
            "run_id": pa.array([run_id] * len(places), pa.string()),
            "path": pa.array([path.relative_to(home).as_posix() for _, path in places], pa.string()),
            "sha256": pa.array([hashes.get((table_name, path.name)) for table_name, path in places], pa.string()),
        }
    )
    _insert(connection, "store_shards", listed)
    return problems


def _fingerprint(manifest: RunManifest, paths: dict[str, list[Path]]) -> str:
    """Return a hash that is equal exactly when the run's rows in a generation would be equal."""
    content: object = manifest.shards
    if content is None:
        content = {
            table: [(path.name, status.st_size, status.st_mtime_ns) for path in found for status in [path.stat()]]
            for table, found in paths.items()
        }
    text = json.dumps([schema.SCHEMA_VERSION, manifest.model.get("n_experts"), content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_digest(manifest: RunManifest) -> str:
    """Return the SHA-256 of a manifest, by which a generation knows it."""
    return signatures.digest(asdict(manifest))


def _insert(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    connection.register("incoming", rows)
    columns = engine.names(rows.column_names)
    connection.execute(f'INSERT INTO "{name}" ({columns}) SELECT {columns} FROM incoming')
    connection.unregister("incoming")


def readable_pointer(home: layout.Home) -> int:
    """Return the number in CURRENT, 0 when there is none or it is damaged: publishing writes it anew."""
    try:
        return current_number(home) or 0
    except CorruptStoreError:
        return 0


def _usable(path: Path) -> Path | None:
    """Return ``path`` when rows can be copied from that generation; refuse one of a newer schema."""
    try:
        with engine.connect(threads=1) as connection:
            version = engine.attach_generation(connection, path)
    except (MissingStoreError, CorruptStoreError):
        return None
    return path if version == schema.SCHEMA_VERSION else None


def listed_shards(home: layout.Home, numbers: Sequence[int] | None = None) -> set[Path]:
    """Return the shards listed by the given generations, or by any on the disk: open readers may use them."""
    found: set[Path] = set()
    for number in generations(home) if numbers is None else numbers:
        with engine.connect(threads=1) as connection:
            try:
                engine.attach_generation(connection, layout.generation_path(home, number))
                rows = connection.execute("SELECT path FROM generation.store_shards").fetchall()
            except (StoreError, duckdb.Error):
                continue  # unreadable for a reader too
            found.update(Path(home) / path for (path,) in rows)
    return found


def published_runs(home: layout.Home) -> set[str]:
    """Return the runs that the current generation shows; none where there is no readable one."""
    try:
        with engine.connect(threads=1) as connection:
            engine.attach_generation(connection, layout.generation_path(home, current_number(home) or 0))
            return {str(run_id) for (run_id,) in connection.execute("SELECT run_id FROM generation.runs").fetchall()}
    except (StoreError, duckdb.Error):
        return set()


def leftovers(home: layout.Home) -> list[Path]:
    """Return the temporary files that a killed writer or publisher left behind."""
    suffix = files.TEMPORARY_SUFFIX
    folders = [Path(home), layout.generations_folder(home), layout.runs_folder(home)]
    found = [path for folder in folders if folder.is_dir() for path in folder.glob(f".*{suffix}*")]
    facts = layout.facts_folder(home)
    return sorted(found + (list(facts.glob(f"table=*/run_id=*/.*{suffix}")) if facts.is_dir() else []))


def _sweep(home: layout.Home) -> None:
    """Delete what killed publishers left; the lock is held, so no other publisher is at work."""
    current = layout.current_path(home).name
    for path in [
        *layout.generations_folder(home).glob(f".*{files.TEMPORARY_SUFFIX}*"),
        *Path(home).glob(f".{current}.*{files.TEMPORARY_SUFFIX}"),
    ]:
        path.unlink(missing_ok=True)


def _prune(home: layout.Home, current: int) -> None:
    """Remove generations that no reader should still hold; recent ones stay for those that do."""
    kept = set(generations(home)[-KEEP_GENERATIONS:]) | {current}
    for number in generations(home):
        path = layout.generation_path(home, number)
        if number not in kept and time.time() - path.stat().st_mtime > KEEP_SECONDS:
            path.unlink(missing_ok=True)
