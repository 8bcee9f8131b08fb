"""Limits and intervals of the dashboard, as documented settings read from ``VMOER_*`` environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the message says which and what would be right."""


@dataclass(frozen=True)
class Settings:
    """What the dashboard reads from its environment; every limit is shown where it takes effect."""

    home: Path = field(
        default=Path("vmoer-data"),
        metadata={"env": "VMOER_HOME", "help": "data folder that holds the published generations"},
    )
    max_points: int = field(
        default=4000,
        metadata={"env": "VMOER_APP_MAX_POINTS", "help": "points drawn in one scatter plot before sampling"},
    )
    max_runs: int = field(
        default=6,
        metadata={"env": "VMOER_APP_MAX_RUNS", "help": "runs drawn side by side in small multiples"},
    )
    max_tokens: int = field(
        default=512,
        metadata={"env": "VMOER_APP_MAX_TOKENS", "help": "tokens of one prompt shown token by token"},
    )
    max_drill: int = field(
        default=20_000,
        metadata={"env": "VMOER_APP_MAX_DRILL", "help": "tokens of one layer read from the facts for a drill-down"},
    )
    max_overlap: int = field(
        default=50,
        metadata={"env": "VMOER_APP_MAX_OVERLAP", "help": "shared questions over which two runs' experts are compared"},
    )
    max_export: int = field(
        default=50,
        metadata={"env": "VMOER_APP_MAX_EXPORT", "help": "megabytes of stored shards a page turns into one download"},
    )
    bootstrap: int = field(
        default=1000,
        metadata={"env": "VMOER_APP_BOOTSTRAP", "help": "resamples of an interval computed on a page"},
    )
    poll_seconds: float = field(
        default=2.0,
        metadata={"env": "VMOER_APP_POLL_SECONDS", "help": "seconds between two looks at running jobs"},
    )
    live_seconds: float = field(
        default=0.4,
        metadata={"env": "VMOER_APP_LIVE_SECONDS", "help": "seconds between two looks at a live inspection"},
    )
    cache_entries: int = field(
        default=256,
        metadata={"env": "VMOER_APP_CACHE_ENTRIES", "help": "query results kept in memory per query"},
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings with every ``VMOER_*`` variable that is set applied to its default."""
        environment = os.environ if environment is None else environment
        values: dict[str, object] = {}
        for item in fields(cls):
            name = item.metadata["env"]
            text = environment.get(name, "").strip()
            if text:
                values[item.name] = _convert(name, text, item.default)
        return cls(**values)  # type: ignore[arg-type]  # by field type


def _convert(name: str, text: str, default: object) -> object:
    if isinstance(default, Path):
        return Path(text).expanduser()
    try:
        value = int(text) if isinstance(default, int) else float(text)
    except ValueError:
        value = 0
    # Written so that NaN fails as well.
    if not 0 < value < float("inf"):
        kind = "whole number" if isinstance(default, int) else "number"
        raise SettingsError(f"{name} must be a positive {kind}, not {text!r}.")
    return value
