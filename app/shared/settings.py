"""Limits and intervals of the dashboard, read from ``VMOER_*`` environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the message says which and what would be right."""


class Settings(BaseSettings):
    """Each limit is shown on the page where it takes effect. A variable that is blank counts as unset."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="VMOER_APP_", env_ignore_empty=True, populate_by_name=True, extra="ignore"
    )

    home: Annotated[Path, BeforeValidator(lambda path: Path(path).expanduser())] = Field(
        default=Path("vmoer-data"),
        validation_alias="VMOER_HOME",
        description="data folder that holds the published generations",
    )
    max_points: PositiveInt = Field(default=4000, description="points drawn in one scatter plot before sampling")
    max_runs: PositiveInt = Field(default=6, description="runs drawn side by side in small multiples")
    max_tokens: PositiveInt = Field(default=512, description="tokens of one prompt shown token by token")
    max_drill: PositiveInt = Field(default=20_000, description="tokens of one layer read from the facts at a time")
    max_overlap: PositiveInt = Field(
        default=50, description="shared questions over which two runs' experts are compared"
    )
    max_export: PositiveInt = Field(default=50, description="megabytes of shards that a page turns into one download")
    bootstrap: PositiveInt = Field(default=1000, description="resamples of an interval computed on a page")
    poll_seconds: Seconds = Field(default=2.0, description="seconds between two looks at running jobs")
    live_seconds: Seconds = Field(default=0.4, description="seconds between two looks at a live inspection")
    cache_entries: PositiveInt = Field(default=256, description="query results kept in memory per query")


def load_settings() -> Settings:
    """Return the defaults overridden by the environment; raise `SettingsError` for a value that does not fit."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        kind = "number" if field.endswith("_seconds") else "whole number"
        raise SettingsError(f"VMOER_APP_{field.upper()} must be a positive {kind}, not {first['input']!r}.") from None
