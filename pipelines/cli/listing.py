"""The rows of runs that the command line lists, read from their manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from store.catalog import RunManifest, list_manifests
from store.retention import run_sizes


def _learned(manifest: RunManifest) -> str | None:
    """Return whether a run's routers have left their prior, in words; ``None`` where nobody measured or could tell."""
    found = (manifest.card.get("routing") or {}).get("posterior")
    if found is None or found["learned"] is None:
        return None
    return "learned" if found["learned"] else "not learned"


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
            "learned": _learned(one),
            "posterior": (one.card.get("routing") or {}).get("posterior"),
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
