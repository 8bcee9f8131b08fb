"""Rows the command line lists: runs from their manifests, question sets after checking them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines import worldfacts
from pipelines.questions import load_questions
from pipelines.spec import DataSource
from store.catalog import RunManifest, list_manifests
from store.retention import run_sizes


def run_rows(home: Path) -> list[dict[str, Any]]:
    """Every run, experiments by start, controls after the runs they belong to; ``datasets`` are names."""
    manifests = list_manifests(home)
    sizes = run_sizes(home)
    started: dict[str, str] = {}
    for manifest in manifests:
        earliest = started.get(manifest.experiment, manifest.started_at)
        started[manifest.experiment] = min(earliest, manifest.started_at)

    def order(manifest: RunManifest) -> tuple[Any, ...]:
        return (
            started[manifest.experiment],
            manifest.experiment,
            manifest.control != "none",
            manifest.method != "deterministic",
            manifest.run_id,
        )

    return [
        {
            "run_id": one.run_id,
            "experiment": one.experiment,
            "name": one.name,
            "model": one.model["model"],
            "method": one.method,
            "estimator": one.estimator,
            "control": one.control,
            "layers": one.layers,
            "samples": one.samples,
            "datasets": [row["dataset"] for row in one.datasets],
            "status": one.status,
            "error": one.error,
            "n_tokens": one.n_tokens,
            "synthetic": one.model["synthetic"],
            "started_at": one.started_at,
            "ended_at": one.ended_at,
            "bytes": sizes.get(one.run_id, 0),
        }
        for one in sorted(manifests, key=order)
    ]


def question_set_rows(path: Path | None) -> list[dict[str, Any]]:
    """One row per built-in split, or the one for ``path``, each read and checked in full."""
    if path is not None:
        sources = [("", DataSource(path=str(path)), "")]
    else:
        sources = [
            ("worldfacts", DataSource(name="worldfacts", split=split), role)
            for split, (_, role) in worldfacts.SPLITS.items()
        ]
    rows = []
    for name, source, role in sources:
        found = load_questions(source)
        rows.append(
            {
                "dataset": found.name,
                "built_in": name or None,
                "role": role or None,
                "n": len(found.questions),
                "options": max(len(question.choices) for question in found.questions),
                "source": found.source,
                "content_sha256": found.content_sha256,
            }
        )
    return rows
