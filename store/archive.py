"""Write and read archives: the results and manifests of finished runs in one file, without texts.

The archive is a ZIP of a small data folder: result tables (one shard per run and table) and manifests, no facts, so no
prompts, tokens or routing decisions. Each run gets the id ``<id>.archived`` and its experiment the prefix
``archived-``: an archived run is looked at, never taken for one that a spec has finished here.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store import files, layout, schema, shards, typed
from store.catalog import RunManifest, parse_manifest, read_manifest, run_ids, seal, sweep, write_manifest
from store.errors import CorruptStoreError, InvalidDataError, NotFoundError
from store.publish import publish, published_runs, shard_paths

SUFFIX = ".archived"
MAX_BYTES = 5_000_000
#: a hostile archive may not unpack to more than this
MAX_UNPACKED = 256 * 2**20
#: what reading a damaged, encrypted or exotic ZIP file ends with
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, OSError, EOFError)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # ZIP members carry no time, so the same runs give the same bytes


#: result tables with a row per question, left out of archives of summaries
PER_QUESTION = ("predictions", "ood_scores")


def write_archive(
    home: layout.Home,
    runs: Sequence[str],
    output: Path,
    scratch: Path,
    label: dict[str, Any],
    summaries: bool = False,
) -> Path:
    """Pack finished runs into ``output``; ``label`` (commit, date) is kept in each manifest's card under ``archived``.

    ``scratch`` is an empty folder to work in. ``summaries`` leaves out the tables with a row per question and, where
    the archive would be too large with them, the training steps between two validations. Refused when a run is
    unfinished or the archive would be too large.
    """
    if not runs:
        raise NotFoundError("there is no run to archive: `vmoer runs` lists those there are")
    for thinned in (False, True) if summaries else (False,):
        folder = scratch / ("thinned" if thinned else "whole")
        for run_id in runs:
            _copy_run(home, run_id, folder, label, summaries, thinned)
        content = _packed(folder)
        if len(content) <= MAX_BYTES:
            break
    else:
        raise InvalidDataError(f"the archive would have {len(content)} bytes; at most {MAX_BYTES} are allowed")
    files.remove_stale(output)
    with files.replacing(output) as temporary:
        temporary.write_bytes(content)
    return output


def _packed(folder: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
            info.compress_type = zipfile.ZIP_LZMA  # an eighth smaller than deflate
            archive.writestr(info, path.read_bytes())
    return content.getvalue()


def read_archive(archive: Path, home: layout.Home) -> list[str]:
    """Import an archive, publish its runs and return their ids; runs that are already there stay."""
    return read_archives([archive], home)


def read_archives(archives: Sequence[Path], home: layout.Home) -> list[str]:
    """Import several archives and publish once."""
    wanted: list[str] = []
    try:
        for archive in archives:
            wanted += _unpack(archive, home)
    finally:
        if not set(wanted) <= published_runs(home):  # an import killed before publishing left others
            publish(home)
    return wanted


def _unpack(archive: Path, home: layout.Home) -> list[str]:
    """Write the runs that ``home`` lacks, once all of them are sound, and return the ids of all."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, archive)
            wanted = sorted({run_id for _, run_id in members.values()})
            added = set(wanted) - set(run_ids(home))
            for run_id in sorted(added):
                _check_run(opened, archive, {name: table for name, (table, mine) in members.items() if mine == run_id})
            order = sorted(members, key=lambda name: name.startswith("runs/"))  # a manifest comes after its shards
            for name in [name for name in order if members[name][1] in added]:
                target = layout.contained(home, Path(home) / name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with files.replacing(target) as temporary:
                    temporary.write_bytes(opened.read(name))
            for run_id in wanted:
                sweep(home, run_id)  # what a killed import has left
    except FileNotFoundError:
        raise NotFoundError(f"there is no archive {archive}") from None
    except _DAMAGED as error:
        raise CorruptStoreError(f"{archive.name} cannot be read as an archive of runs: {error}") from error
    return wanted


def _check_run(opened: zipfile.ZipFile, archive: Path, members: dict[str, str]) -> None:
    """Refuse ``members`` (name → table) unless they are one finished run with the shards that its manifest seals."""
    (run_id,) = {PurePosixPath(name).stem for name, table in members.items() if table == "runs"} or {""}
    if not run_id:
        raise CorruptStoreError(f"{archive.name} holds {min(members)!r} of a run without its manifest")
    manifest = parse_manifest(opened.read(f"runs/{run_id}.json"), run_id)
    try:
        sealed = {
            (table, one["name"]): one["sha256"] for table, held in (manifest.shards or {}).items() for one in held
        }
    except (AttributeError, TypeError, KeyError):
        sealed = {}
    found = {
        (table, PurePosixPath(name).name): hashlib.sha256(opened.read(name)).hexdigest()
        for name, table in members.items()
        if table != "runs"
    }
    if manifest.status != "finished" or manifest.shards is None or sealed != found:
        raise CorruptStoreError(f"{archive.name} is damaged: run {run_id} is not what its manifest seals; take it anew")


def _copy_run(
    home: layout.Home, run_id: str, target: Path, label: dict[str, Any], summaries: bool, thinned: bool
) -> None:
    manifest = read_manifest(home, run_id)
    if manifest.status != "finished" or manifest.shards is None:
        raise InvalidDataError(f"run {run_id} is {manifest.status}; only finished runs are archived")
    if manifest.card.get("spec", {}).get("store_text"):
        manifest.card["spec"]["store_text"] = False  # texts are facts, and facts are left out
    archived = f"{run_id.removesuffix(SUFFIX)}{SUFFIX}"
    paths = shard_paths(home, manifest)
    write_manifest(target, _relabelled(manifest, archived, label))
    for table in schema.tables("result"):
        if paths.get(table.name) and not (summaries and table.name in PER_QUESTION):
            rows = pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths[table.name]])
            if thinned and table.name == "training_log":
                rows = at_validations(rows)
            rows = rows.cast(typed.arrow_schema(table)).sort_by([(name, "ascending") for name in table.key])
            if "baseline_run_id" in rows.column_names:
                place = rows.column_names.index("baseline_run_id")
                renamed = pc.binary_join_element_wise(rows["baseline_run_id"], SUFFIX, "")
                rows = rows.set_column(place, rows.schema.field(place), renamed)
            columns = {name: rows[name].to_pylist() for name in rows.column_names if name != "run_id"}
            shards.write_shard(target, table.name, archived, "archive", columns, packed=False)
    seal(target, archived, status="finished", ended_at=manifest.ended_at)


def at_validations(log: pa.Table) -> pa.Table:
    """Return the rows of a training log at its first step and at those with a validation: enough to draw its curve."""
    validated = log.filter(pc.equal(log["quantity"], "validation_nll"))["step"].to_pylist()
    steps = [step for step in log["step"].to_pylist() if step]
    kept = {*validated, *([min(steps)] if steps else [])}
    return log.filter(pc.is_in(log["step"], pa.array(sorted(kept), log.schema.field("step").type)))


def _relabelled(manifest: RunManifest, run_id: str, label: dict[str, Any]) -> RunManifest:
    shown = ", ".join(str(label[key]) for key in ("date", "commit") if label.get(key))
    return replace(
        manifest,
        run_id=run_id,
        experiment=f"archived-{manifest.experiment}",
        name=f"{manifest.name} (archived {shown})" if shown else f"{manifest.name} (archived)",
        card={**manifest.card, "archived": label},
        shards=None,
    )


def _members(opened: zipfile.ZipFile, archive: Path) -> dict[str, tuple[str, str]]:
    """Return member → (table or ``runs``, run id); refuse by name what is no manifest or result shard."""
    if sum(info.file_size for info in opened.infolist()) > MAX_UNPACKED:
        raise CorruptStoreError(f"{archive.name} unpacks to more than {MAX_UNPACKED} bytes")
    found = {}
    for name in opened.namelist():
        parts = PurePosixPath(name).parts
        if len(parts) == 2 and parts[0] == "runs" and name.endswith(".json"):
            found[name] = ("runs", layout.check_run_id(parts[1].removesuffix(".json")))
            continue
        fits = len(parts) == 4 and parts[0] == "facts" and layout.is_shard_name(parts[3])
        table, run_id = (part.partition("=")[2] for part in parts[1:3]) if fits else ("", "")
        if not fits or parts[1] != f"table={table}" or parts[2] != f"run_id={run_id}" or "\\" in name:
            raise CorruptStoreError(f"{archive.name} holds {name[:80]!r}, which is no part of an archive of runs")
        found[name] = (layout.check_table(table, "result").name, layout.check_run_id(run_id))
    return found
