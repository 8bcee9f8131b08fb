"""A run's manifest through its life: begun, sealed, failed or cancelled; and what its reproducibility card says."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.errors import DataError, PipelineError
from pipelines.preparation.setup import Setup
from pipelines.resources import ROOT
from pipelines.session.checkpoints import router_folder
from pipelines.session.inputs import Inputs
from pipelines.session.session import Session
from pipelines.spec.model import Spec
from pipelines.spec.runs import RunPlan, expand
from store import schema
from store.catalog import (
    RunManifest,
    delete_shards,
    find_manifest,
    now,
    read_manifest,
    remove_duplicate_shards,
    seal,
    write_manifest,
)
from store.errors import CorruptShardError
from store.files import sha256
from store.layout import shard_path
from store.redact import redacted
from store.shards import changed, check_info, display, list_shards, merged_shards, named, read_info, shard_name

_PACKAGES = ("vmoer", "torch", "transformers", "numpy", "duckdb", "pyarrow", "dbos", "scikit-learn")


def finished(inputs: Inputs, run: RunPlan) -> bool:
    """Whether a run is stored complete; refused when its questions have changed since."""
    manifest = find_manifest(inputs.home, run.run_id)
    if manifest is None or manifest.status != "finished" or not manifest.sealed:
        return False
    stored = {row["dataset"]: row["content_sha256"] for row in manifest.datasets}
    for item in inputs.sets:
        if stored.get(item.name) != item.content_sha256:
            raise DataError(
                f"question set {item.name!r} has changed since run {run.run_id} was computed; give the spec another "
                "`name` to keep both, or remove the run"
            )
    return True


def begin_run(session: Session, run: RunPlan, setup: Setup) -> RunManifest:
    """Write the manifest of a run that starts or goes on; the first start time is kept."""
    resident, spec, inputs = session.resident, session.spec, session.inputs
    check_same_base(inputs, run, setup.base)
    before = find_manifest(inputs.home, run.run_id)
    if before is None:
        delete_shards(inputs.home, run.run_id)
    elif not before.sealed:
        remove_duplicate_shards(inputs.home, run.run_id)
    manifest = RunManifest(
        run_id=run.run_id,
        experiment=run.experiment,
        name=run.name,
        model={**resident.identity, "model": run.model},
        method=run.method,
        estimator=run.estimator,
        control=run.control,
        layers=setup.layers,
        samples=run.samples,
        seed=run.seed,
        scoring=spec.scoring,
        dtype=resident.dtype,
        device=resident.device_name,
        routers=setup.routers,
        status="running",
        datasets=[
            {
                "dataset": item.name,
                "role": item.role,
                "source": item.source,
                "n": len(item.questions),
                "content_sha256": item.content_sha256,
            }
            for item in inputs.sets
        ],
        started_at=before.started_at if before else now(),
        card={
            "spec": redacted(spec.canonical()),
            "run": run.to_json(),
            "routing": setup.card,
            "base": setup.base,
            "texts": session.texts(),
            "normalise": {item.name: item.normalise for item in inputs.sets},
            "recognised": {item.name: list(item.recognised) for item in inputs.sets},
            "versions": versions(),
            "commit": commit(),
            "python": platform.python_version(),
            "kernels": resident.kernels(),
        },
    )
    write_manifest(inputs.home, manifest)
    return manifest


def check_same_base(inputs: Inputs, run: RunPlan, card: dict[str, Any]) -> None:
    """Refuse a row whose base has the name, but not the weights, of a row that is already there."""
    for other in expand(inputs.spec):
        manifest = find_manifest(inputs.home, other.run_id) if other.run_id != run.run_id else None
        stored = manifest.card.get("base") if manifest is not None else None
        if stored is None or stored["base"] != card["base"]:
            continue
        for key, what in (("adapter_sha256", "adapter"), ("routers_sha256", "base routers")):
            if stored[key] != card[key]:
                raise PipelineError(
                    f"run {run.run_id} would be compared with {other.run_id}, but its {what} differ "
                    f"({str(card[key])[:12]} against {str(stored[key])[:12]}); give the spec another `name`"
                )


def remove_stale_shards(home: Path, run_id: str, expected: set[tuple[str, str]]) -> None:
    """Remove the shards of a run that are neither among ``(table, key)`` pairs nor merged from nothing but those.

    Such are left by an older version of a stage, and all that summarise the run, which are made anew.
    """
    for table in schema.tables("fact", "result"):
        mine = {shard_name(key) for name, key in expected if name == table.name}
        parts: dict[Path, set[str]] = {}
        for part, path in merged_shards(home, table.name, run_id).items():
            parts.setdefault(path, set()).add(part)
        for path in list_shards(home, table.name, run_id):
            if not parts.get(path, {path.name}) <= mine:
                path.unlink()


def seal_run(inputs: Inputs, run: RunPlan) -> None:
    """Mark a run finished, with the hashes of the shards it has."""
    tokens = sum(read_info(path).rows for path in list_shards(inputs.home, "tokens", run.run_id))
    card = _with_weights(inputs, run, read_manifest(inputs.home, run.run_id).card)
    seal(inputs.home, run.run_id, status="finished", error=None, ended_at=now(), n_tokens=tokens or None, card=card)


def _with_weights(inputs: Inputs, run: RunPlan, card: dict[str, Any]) -> dict[str, Any]:
    """The card with the hash of the routers a run has used; when it began they may not have been trained yet."""
    if run.deterministic or run.noisy or run.control == "untrained":
        return card
    folder = router_folder(inputs, run.method, run.control)
    if folder is None:
        return card
    return {**card, "routing": {**card["routing"], "checkpoint_sha256": sha256(folder / "routers.safetensors")}}


def end_run(home: Path, run_id: str, status: str, reason: str | None) -> None:
    """Mark a run that stopped before its end; a run that never began is left alone."""
    manifest = find_manifest(home, run_id)
    if manifest is not None and manifest.status != "finished":
        write_manifest(home, replace(manifest, status=status, error=reason, ended_at=now()))


def recheck(home: Path, spec: Spec) -> list[str]:
    """Reopen the finished runs of a spec that have missing or damaged shards; returns a sentence for each shard.

    A damaged shard is removed, so that exactly its steps are computed again: its bytes are not those that were sealed,
    and nothing in it can be trusted. Merged shards that do not say which steps their rows came from go with it.
    """
    found = []
    for run in expand(spec):
        manifest = find_manifest(home, run.run_id)
        if manifest is None or not manifest.sealed:
            continue
        lost = dict(_lost(home, manifest))
        if lost:
            listed = {
                shard_path(home, table, run.run_id, entry["name"]): entry
                for table, entries in (manifest.shards or {}).items()
                for entry in entries
            }
            # removed first: while the manifest still lists them, whoever is killed here finds them missing
            for path in [*lost, *(path for path, entry in listed.items() if "merged" in entry)]:
                path.unlink(missing_ok=True)
            remove_duplicate_shards(home, run.run_id)
            write_manifest(home, replace(manifest, status="cancelled", shards=None))
            found += [f"{run.run_id}: {reason}; {_again(listed[path])}" for path, reason in lost.items()]
    return found


def _again(entry: dict[str, Any]) -> str:
    if "merged" in entry:
        merged = f"it was merged from {entry['merged']} shards by `vmoer compact`"
        return f"{merged} and does not say of which, so every merged step of the run is computed again"
    steps = list(map(str, entry.get("steps", [])))
    if len(steps) > 1:
        return f"what it was merged from by `vmoer compact` is computed again, {named(steps)}"
    return f"it is computed again{f' ({named(steps)})' if steps else ''}"


def _lost(home: Path, manifest: RunManifest) -> Iterator[tuple[Path, str]]:
    """Each shard of a sealed run that is not what was sealed, with the sentence that says why."""
    for table, entries in (manifest.shards or {}).items():
        for entry in entries:
            path = shard_path(home, table, manifest.run_id, entry["name"])
            try:
                info = check_info(path, table, manifest.run_id)
            except CorruptShardError as error:
                yield path, str(error)
                continue
            if info.rows != entry["rows"]:
                yield path, f"shard {display(path)} has {info.rows} rows instead of {entry['rows']}"
            elif sha256(path) != entry["sha256"]:
                yield path, changed(path)


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Installed versions of what computes the numbers."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of this checkout, with ``+`` when files differ from it; ``None`` outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*words: str) -> str:
        done = subprocess.run([git, *words], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        return done.stdout.strip()

    try:
        head = ask("rev-parse", "HEAD")
        changes = ask("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changes else "")
