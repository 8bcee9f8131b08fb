"""Settings of the pipelines, read from the environment each time they are asked for."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from pipelines.errors import PipelineError

#: the names of this machine that no other machine can reach it by
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """Where things are and how much is allowed; every field has an environment variable (see ``DOCS``)."""

    home: Path = Path("vmoer-data")
    cache: Path = Path("~/.cache/vmoer")
    jobs_url: str = ""
    machine: str = ""
    device: str = "auto"
    engine: str = "local"
    ray_address: str = ""
    actors: int = 0
    shards_url: str = ""
    address: str = "127.0.0.1"
    port: int = 8501
    hosts: str = ""
    auth_file: str = ""
    users: str = ""
    poll_seconds: float = 0.1
    max_queued: int = 100
    max_job_hours: float = 168.0
    max_questions: int = 100_000
    max_prompt_chars: int = 200_000
    max_spec_bytes: int = 262_144
    models: str = ""
    datasets: str = ""
    max_upload_bytes: int = 5_000_000
    max_upload_prompts: int = 10_000
    live_prompts: int = 16
    live_chars: int = 20_000
    live_tokens: int = 512
    live_new_tokens: int = 32
    live_samples: int = 100
    live_seconds: float = 120.0
    live_waiting: int = 8
    live_keep_days: float = 14.0
    live_keep_megabytes: float = 500.0
    min_free_mb: float = 64.0
    room_minutes: float = 60.0
    quota_gb: float = 0.0

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the job state: ``jobs_url``, else SQLite inside the data folder."""
        return self.jobs_url or f"sqlite:///{self.home / 'jobs.sqlite'}"

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


DOCS: dict[str, tuple[str, str]] = {
    "home": ("VMOER_HOME", "data folder: shards, run manifests, generations, jobs, logs"),
    "cache": ("VMOER_CACHE", "built and converted models"),
    "jobs_url": ("VMOER_JOBS_URL", "database of the job state; empty means SQLite in the data folder"),
    "machine": ("VMOER_MACHINE", "this machine among those that share a job database; empty means its host name"),
    "device": ("VMOER_DEVICE", "auto, cpu, mps, cuda or cuda:N"),
    "engine": ("VMOER_ENGINE", "local (one process), or ray (an actor per GPU or processor; docs/scale-out.md)"),
    "ray_address": ("VMOER_RAY_ADDRESS", "the Ray cluster of engine ray; empty starts a session on this machine"),
    "actors": ("VMOER_ACTORS", "actors of engine ray; left out: one per GPU, or per processor without GPUs"),
    "shards_url": ("VMOER_SHARDS_URL", "fsspec URL by which Ray's actors pass on shards where no folder is shared"),
    "address": ("VMOER_ADDRESS", "address the dashboard binds to"),
    "port": ("VMOER_PORT", "port of the dashboard"),
    "hosts": ("VMOER_ALLOWED_HOSTS", "further names under which the dashboard may be reached, with commas between"),
    "auth_file": ("VMOER_AUTH_FILE", "TOML file with [auth]: readers must log in (docs/security.md)"),
    "users": ("VMOER_ALLOWED_USERS", "who may enter after the login: addresses, *@domain or *, with commas between"),
    "poll_seconds": ("VMOER_POLL_SECONDS", "how often a worker looks for new jobs, seconds"),
    "max_queued": ("VMOER_MAX_QUEUED", "most jobs that wait or run at a time"),
    "max_job_hours": ("VMOER_MAX_JOB_HOURS", "a job that computes longer is cancelled; what it stored stays"),
    "max_questions": ("VMOER_MAX_QUESTIONS", "most questions one data set may use"),
    "max_prompt_chars": ("VMOER_MAX_PROMPT_CHARS", "longest question or option, characters"),
    "max_spec_bytes": ("VMOER_MAX_SPEC_BYTES", "largest spec file, bytes"),
    "models": ("VMOER_MODELS", "folders and hub ids that the dashboard may use beside the bundled models, by commas"),
    "datasets": ("VMOER_DATASETS", "folders whose question sets the dashboard may use, by commas"),
    "max_upload_bytes": ("VMOER_MAX_UPLOAD_BYTES", "largest file of prompts, bytes"),
    "max_upload_prompts": ("VMOER_MAX_UPLOAD_PROMPTS", "most prompts in one file"),
    "live_prompts": ("VMOER_LIVE_PROMPTS", "most prompts of one live inspection; more become a job"),
    "live_chars": ("VMOER_LIVE_CHARS", "longest prompt inspected live, characters"),
    "live_tokens": ("VMOER_LIVE_TOKENS", "longest prompt inspected live, tokens"),
    "live_new_tokens": ("VMOER_LIVE_NEW_TOKENS", "most tokens generated in an inspection"),
    "live_samples": ("VMOER_LIVE_SAMPLES", "most routing samples of an inspection"),
    "live_seconds": ("VMOER_LIVE_SECONDS", "longest an inspection computes, seconds"),
    "live_waiting": ("VMOER_LIVE_WAITING", "most inspections that wait at once"),
    "live_keep_days": ("VMOER_LIVE_KEEP_DAYS", "how long results of inspections are kept, days"),
    "live_keep_megabytes": ("VMOER_LIVE_KEEP_MEGABYTES", "how much room they may take; the oldest go first"),
    "min_free_mb": ("VMOER_MIN_FREE_MB", "a job stops when less than this is free on its disk, MB"),
    "room_minutes": ("VMOER_ROOM_MINUTES", "a step that fills the disk waits this long for room before its job fails"),
    "quota_gb": ("VMOER_QUOTA_GB", "a job is refused when the data folder is larger than this, GB; empty: no limit"),
}


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in force: defaults overridden by the environment; a malformed number is refused by name."""
    environment = os.environ if environment is None else environment
    values: dict[str, object] = {}
    for field in fields(Settings):
        variable, _ = DOCS[field.name]
        text = environment.get(variable, "").strip()
        if isinstance(field.default, Path):
            values[field.name] = Path(text or field.default).expanduser().absolute()
        elif text:
            values[field.name] = (
                text if isinstance(field.default, str) else _number(variable, text, type(field.default))
            )
    return Settings(**values)  # type: ignore[arg-type]


def _listed(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _number(variable: str, text: str, kind: type) -> float:
    try:
        value: float = kind(text)
    except ValueError:
        raise PipelineError(f"{variable}={text!r} is not a number; unset it or give one") from None
    if not 0 < value < float("inf"):
        raise PipelineError(f"{variable}={text!r} must be greater than zero")
    return value
