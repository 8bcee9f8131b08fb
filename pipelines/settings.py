"""Settings of the pipelines, read from the environment each time they are asked for."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, create_model, model_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.errors import PipelineError

#: the names of this machine that no other machine can reach it by
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """Where things are and how much is allowed; :func:`variables` says how the environment names them."""

    home: Path = Field(
        default=Path("vmoer-data"), description="data folder: shards, run manifests, generations, jobs, logs"
    )
    cache: Path = Field(default=Path("~/.cache/vmoer"), description="built and converted models")
    jobs_url: str = Field(default="", description="database of the job state; empty means SQLite in the data folder")
    machine: str = Field(
        default="", description="this machine among those that share a job database; empty means its host name"
    )
    device: str = Field(default="auto", description="auto, cpu, mps, cuda or cuda:N")
    engine: str = Field(
        default="local", description="local (one process), or ray (an actor per GPU or processor; docs/scale-out.md)"
    )
    ray_address: str = Field(
        default="", description="the Ray cluster of engine ray; empty starts a session on this machine"
    )
    actors: int = Field(
        default=0, description="actors of engine ray; left out: one per GPU, or per processor without GPUs"
    )
    shards_url: str = Field(
        default="", description="fsspec URL by which Ray's actors pass on shards where no folder is shared"
    )
    address: str = Field(default="127.0.0.1", description="address the dashboard binds to")
    port: int = Field(default=8501, description="port of the dashboard")
    base_path: str = Field(
        default="", description="path under which a reverse proxy passes the dashboard on, such as lab/vmoer"
    )
    hosts: str = Field(
        default="", description="further names under which the dashboard may be reached, with commas between"
    )
    auth_file: str = Field(default="", description="TOML file with [auth]: readers must log in (docs/security.md)")
    users: str = Field(
        default="", description="who may enter after the login: addresses, *@domain or *, with commas between"
    )
    poll_seconds: float = Field(default=0.1, description="how often a worker looks for new jobs, seconds")
    max_queued: int = Field(default=100, description="most jobs that wait or run at a time")
    max_job_hours: float = Field(
        default=168.0, description="a job that computes longer is cancelled; what it stored stays"
    )
    max_questions: int = Field(default=100_000, description="most questions one data set may use")
    max_prompt_chars: int = Field(default=200_000, description="longest question or option, characters")
    max_spec_bytes: int = Field(default=262_144, description="largest spec file, bytes")
    max_file_bytes: int = Field(
        default=200_000_000, description="largest question file that is not Parquet, and unpacked, bytes"
    )
    models: str = Field(
        default="", description="folders and hub ids that the dashboard may use beside the bundled models, by commas"
    )
    datasets: str = Field(default="", description="folders whose question sets the dashboard may use, by commas")
    max_upload_bytes: int = Field(default=5_000_000, description="largest file of prompts, bytes")
    max_upload_prompts: int = Field(default=10_000, description="most prompts in one file")
    live_prompts: int = Field(default=16, description="most prompts of one live inspection; more become a job")
    live_chars: int = Field(default=20_000, description="longest prompt inspected live, characters")
    live_tokens: int = Field(default=512, description="longest prompt inspected live, tokens")
    live_new_tokens: int = Field(default=32, description="most tokens generated in an inspection")
    live_samples: int = Field(default=100, description="most routing samples of an inspection")
    live_seconds: float = Field(default=120.0, description="longest an inspection computes, seconds")
    live_waiting: int = Field(default=8, description="most inspections that wait at once")
    live_keep_days: float = Field(default=14.0, description="how long results of inspections are kept, days")
    live_keep_megabytes: float = Field(default=500.0, description="how much room they may take; the oldest go first")
    min_free_mb: float = Field(default=64.0, description="a job stops when less than this is free on its disk, MB")
    room_minutes: float = Field(
        default=60.0, description="a step that fills the disk waits this long for room before its job fails"
    )
    quota_gb: float = Field(
        default=0.0, description="a job is refused when the data folder is larger than this, GB; empty: no limit"
    )

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the job state: ``jobs_url``, else SQLite inside the data folder."""
        place = str(self.home / "jobs.sqlite").replace("%", "%25")  # in a URL %41 would be A
        return self.jobs_url or f"sqlite:///{place}"

    @property
    def machine_name(self) -> str:
        """What tells this machine's workers from those of others; empty while the jobs live in the data folder."""
        return self.machine or (platform.node() if self.jobs_url else "")

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Names, besides those of the bind address, under which the dashboard may be reached."""
        return _listed(self.hosts)

    @property
    def allowed_users(self) -> tuple[str, ...]:
        """Who may enter after logging in: addresses, ``*@domain``, or ``*``."""
        return _listed(self.users)

    @property
    def logs(self) -> Path:
        return self.home / "logs"


#: default and meaning of every setting
FIELDS: dict[str, FieldInfo] = Settings.__pydantic_fields__  # type: ignore[attr-defined]  # mypy sees a plain dataclass


def variables() -> dict[str, str]:
    """Return the environment variable of every setting."""
    others = {"hosts": "VMOER_ALLOWED_HOSTS", "users": "VMOER_ALLOWED_USERS"}
    return {name: others.get(name, f"VMOER_{name.upper()}") for name in FIELDS}


class _Environment(BaseSettings):
    """Reads the variables; those that are empty or blank count as unset."""

    model_config = SettingsConfigDict(extra="ignore", case_sensitive=True, validate_default=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, values: dict[str, str]) -> dict[str, str]:
        return {name: text.strip() for name, text in values.items() if text.strip()}


def _reader() -> type[_Environment]:
    # zero is a default ("no limit", "one per device"); whoever sets a number gives more
    limits: dict[Any, dict[str, Any]] = {int: {"gt": 0}, float: {"gt": 0, "allow_inf_nan": False}}
    fields: dict[str, Any] = {}
    for name, variable in variables().items():
        field = FIELDS[name]
        options = limits.get(field.annotation, {})
        fields[name] = (field.annotation, Field(field.default, validation_alias=variable, **options))
    return create_model("_Variables", __base__=_Environment, **fields)


_READER = _reader()


def load_settings() -> Settings:
    """Return the defaults overridden by the environment; a malformed number raises `PipelineError`."""
    try:
        values = _READER().model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{first['loc'][0]}={first['input']!r}"
        if first["type"] in ("greater_than", "finite_number"):
            raise PipelineError(f"{wrong} must be greater than zero") from None
        raise PipelineError(f"{wrong} is not a number; unset it or give one") from None
    for folder in ("home", "cache"):
        values[folder] = values[folder].expanduser().absolute()
    if "?" in str(values["home"]):
        raise PipelineError(
            f"VMOER_HOME={str(values['home'])!r} holds a question mark, behind which databases read options; "
            "use a folder without one"
        )
    return Settings(**values)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())
