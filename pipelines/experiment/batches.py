"""What computes an experiment in whatever process it happens, a worker or an actor: its plan, its runs, its batches.

A batch becomes one shard per table under names that follow from the plan, and nothing is done where sound shards of
those names are there already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines import stages
from pipelines.errors import DataError
from pipelines.experiment.manifests import begin_run
from pipelines.experiment.object_store import Exchange
from pipelines.preparation.setup import Setup, prepare_experiment, prepare_run
from pipelines.session.session import Session
from pipelines.spec.runs import RunPlan, expand
from pipelines.spec.stage_table import BY_NAME
from pipelines.stages import Batch
from store.catalog import find_manifest
from store.errors import StoreError
from store.layout import shard_path
from store.shards import check_info, check_pages, merged_shards, shard_name, write_shard
from vmoer.scoring.token_budget import exhausted

#: run id → stage → its batches, plain JSON values
Batches = dict[str, dict[str, list[dict[str, Any]]]]


class Work:
    """The work of one experiment in this process; ``warn(event, **fields)`` is told what had to be mended."""

    def __init__(self, session: Session, warn: Callable[..., None]) -> None:
        self.session = session
        self.warn = warn
        #: ``(run id, key)`` of the batches whose shards this execution wrote or read through: not read again
        self.checked: set[tuple[str, str]] = set()
        #: ``(table, run id)`` → which merged shard holds the rows of a shard that compacting replaced
        self._merged: dict[tuple[str, str], dict[str, Path]] = {}
        self._read: set[Path] = set()  # merged shards that were read through
        settings = session.inputs.settings
        #: with engine ray, where no folder is shared
        self.exchange = (
            Exchange(settings.shards_url, session.home) if settings.shards_url and settings.engine == "ray" else None
        )

    def plan(self, runs: Sequence[RunPlan]) -> Batches:
        """Every batch of every stage of the given runs."""
        return {
            run.run_id: {
                name: [batch.to_json() for batch in stages.stage(name).plan(self.session, run)]
                for name in self.stages(run)
            }
            for run in runs
        }

    def stages(self, run: RunPlan) -> list[str]:
        """The stages a run has, in order."""
        spec = self.session.spec
        wanted = [*spec.stages, *(["train"] if spec.trains else [])]
        return [name for name in BY_NAME if name in wanted and stages.stage(name).applies(run)]

    def begin(self, run: RunPlan, setup: Setup) -> None:
        """Write the manifest of a run that starts or goes on."""
        begin_run(self.session, run, setup)

    def prepare_all(self, runs: Sequence[RunPlan]) -> Batches:
        """Prepare, plan and begin the given runs, which is done before many processes share them."""
        prepare_experiment(self.session)
        planned = self.plan(runs)
        if self.exchange is not None:
            for known in expand(self.session.spec):  # to go on with, and to compare the base with
                self.exchange.fetch_manifest(known.run_id)
        for run in runs:
            self.begin(run, prepare_run(self.session, run))
            if self.exchange is not None:
                self.exchange.send_manifest(run.run_id)
        return planned

    def ensure(self, run: RunPlan, name: str, batch: Batch) -> bool:
        """Make the shards of a batch exist, writing only those that are not; False when all were there already."""
        module = stages.stage(name)
        tables = stages.tables_of(name, self.session.spec)
        key = f"{name}/{batch.key}"
        missing = [table for table in tables if not self._sound(table, run.run_id, key)]
        if self.exchange is not None:
            missing = self._fetched(self.exchange, run, name, key, missing)
        if not missing:
            self.checked.add((run.run_id, key))
            return False
        self.session.remember(f"inputs of {run.run_id}", lambda: self._check_inputs(run))
        try:
            computed = module.compute(self.session, run, batch)
        except torch.OutOfMemoryError as error:
            raise exhausted(f"stage {name}", error) or error from None
        if set(computed) != set(tables):
            raise RuntimeError(f"{key} gave {sorted(computed)} instead of {sorted(tables)}")
        self.write(run, key, {table: computed[table] for table in missing})
        if self.exchange is not None:
            for table in missing:
                self.exchange.send(table, run.run_id, shard_name(key))
        self.checked.add((run.run_id, key))
        return True

    def write(self, run: RunPlan, key: str, tables: Mapping[str, Any]) -> None:
        """Write one shard per table."""
        for table, data in tables.items():
            write_shard(self.session.home, table, run.run_id, key, data)

    def _fetched(self, exchange: Exchange, run: RunPlan, name: str, key: str, missing: list[str]) -> list[str]:
        """Which of the missing tables are not to be had from elsewhere either."""
        if find_manifest(self.session.home, run.run_id) is None:
            exchange.fetch_manifest(run.run_id)
        self.checked.discard((run.run_id, key))  # what comes from elsewhere is read through here
        left = [
            table
            for table in missing
            if not exchange.fetch(table, run.run_id, shard_name(key)) or not self._sound(table, run.run_id, key)
        ]
        if left and BY_NAME[name].after_others:
            exchange.fetch_run(run.run_id)
        return left

    def _sound(self, table: str, run_id: str, key: str) -> bool:
        path = shard_path(self.session.home, table, run_id, shard_name(key))
        merged = None if path.exists() else self._merged_with(path.name, table, run_id)
        path = merged or path
        if not path.exists() or (run_id, key) in self.checked or path in self._read:
            return path.exists()
        try:
            check_info(path, table, run_id)
            check_pages(path)
        except StoreError as error:
            self.warn("shard is recomputed", reason=str(error))
            if merged:  # what is computed again gets names of its own
                merged.unlink(missing_ok=True)
            return False
        if merged:
            self._read.add(merged)
        return True

    def _merged_with(self, shard: str, table: str, run_id: str) -> Path | None:
        """The merged shard that holds the rows of one that is not there by itself, if there is one."""
        place = (table, run_id)
        if place not in self._merged:
            self._merged[place] = merged_shards(self.session.home, table, run_id)
        return self._merged[place].get(shard)

    def _check_inputs(self, run: RunPlan) -> None:
        """Refuse to add to a run what this process would compute from other weights or questions than it began with."""
        manifest = find_manifest(self.session.home, run.run_id)
        if manifest is None:
            return
        resident = self.session.resident
        model, dtype = resident.identity["weights_sha256"], resident.dtype
        if (model, dtype) != (manifest.model["weights_sha256"], manifest.dtype):
            raise DataError(
                f"run {run.run_id} was begun with other weights or another number format of {run.model} than this "
                "process has; give every machine the same model"
            )
        began = {row["dataset"]: row["content_sha256"] for row in manifest.datasets}
        for item in self.session.inputs.sets:
            if began.get(item.name) != item.content_sha256:
                raise DataError(
                    f"question set {item.name!r} is not the one run {run.run_id} was begun with; give every machine "
                    "the same files"
                )
