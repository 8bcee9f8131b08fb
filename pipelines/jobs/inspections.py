"""Live inspection of prompts, the client's side: ask, watch, cancel, read the result. Never imports torch.

An inspection is computed by a worker (:mod:`pipelines.worker.inspection_step`) between the steps of its experiments.
The prompts and the result lie in the data folder, in ``inspections/<id>.…``; the job database holds the id and the
progress only.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.data.checks import check_prompt
from pipelines.errors import DataError, JobError, SpecError
from pipelines.jobs import client as jobs
from pipelines.jobs.allowed import allowed_models
from pipelines.jobs.database import connect
from pipelines.jobs.locks import live_executors, stopped_executors, stopped_sentence
from pipelines.settings import Settings, load_settings
from pipelines.spec.explain import explain
from pipelines.spec.sections import Layers, MethodName, Text
from store.files import replacing, write_text
from store.layout import contained
from vmoer.methods import METHODS

WORKFLOW = "inspection"
QUEUE = "inspection"
PROGRESS_EVENT = "progress"

_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{12}")
_STATUS = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
    "SUCCESS": "finished",
    "CANCELLED": "cancelled",
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Why(_Part):
    """Ask which tokens make one routing decision what it is: a router quantity at one token and layer of one prompt."""

    method: MethodName
    layer: Annotated[int, Field(ge=0, lt=10_000)]
    position: Annotated[int, Field(ge=0, lt=1_000_000)]
    quantity: Literal["logit_variance", "routing_entropy", "expert_logit"] = "logit_variance"
    algorithm: Literal["ablation", "shapley"] = "ablation"
    permutations: Annotated[int, Field(ge=2, le=1000)] = 25


class Request(_Part):
    """What to inspect. ``routers``: ``shipped`` takes trained routers where there are some, else fresh heads.

    ``methods`` are looked at beside the deterministic model. With ``why`` the one prompt is explained and nothing else.
    """

    model: Text
    prompts: Annotated[list[str], Field(min_length=1)]
    methods: Annotated[list[MethodName], Field(max_length=4)] = []
    layers: Layers = None
    samples: Annotated[int, Field(ge=1, le=1000)] = 35
    new_tokens: Annotated[int, Field(ge=0, le=1000)] = 0
    routers: Literal["shipped", "untrained"] = "shipped"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    why: Why | None = None


@dataclass(frozen=True)
class Inspection:
    """One inspection as it stands: ``status`` is queued, running, finished, failed, cancelled or lost."""

    inspection_id: str
    status: str
    done: int
    total: int
    message: str
    ahead: int

    @property
    def ended(self) -> bool:
        """True when nothing more will happen to it on its own."""
        return self.status in ("finished", "failed", "cancelled")


def parse_request(values: Mapping[str, Any], settings: Settings, *, any_model: bool = False) -> Request:
    """The request these values describe, within the limits of the settings; :class:`SpecError` in one sentence.

    ``any_model`` is for the command line, whose user may read every folder anyway.
    """
    try:
        request = Request.model_validate(dict(values))
    except ValidationError as error:
        raise SpecError(explain(error, Request, dict(values))) from None
    if not any_model and request.model not in allowed_models(settings):
        raise SpecError(
            f"model {request.model[:80]!r} may not be used from here; there are "
            f"{', '.join(allowed_models(settings))} (VMOER_MODELS adds more)"
        )
    limits = (
        (len(request.prompts), settings.live_prompts, "prompts; keep them as a run instead (VMOER_LIVE_PROMPTS)"),
        (request.samples, settings.live_samples, "routing samples (VMOER_LIVE_SAMPLES)"),
        (request.new_tokens, settings.live_new_tokens, "new tokens (VMOER_LIVE_NEW_TOKENS)"),
    )
    for asked, most, what in limits:
        if asked > most:
            raise SpecError(f"{asked:,} is more than {most:,} {what}")
    for number, text in enumerate(request.prompts, 1):
        place = "the prompt" if len(request.prompts) == 1 else f"prompt {number}"
        check_prompt(text, settings, place)
        if len(text) > settings.live_chars:
            raise DataError(f"{place} has {len(text):,} characters; at most {settings.live_chars:,} are inspected live")
    if len(set(request.methods)) != len(request.methods):
        raise SpecError("a method is listed twice")
    if isinstance(request.layers, str) and not request.layers.startswith(("all", "last")):
        raise SpecError(f"layers: {request.layers} is measured on a question set; use all, last:n or a list here")
    if request.why is not None and (len(request.prompts) != 1 or request.new_tokens):
        raise SpecError("an explanation is of one prompt without new tokens")
    return request


def submit(request: Request, settings: Settings | None = None) -> str:
    """Queue an inspection and return its id; refused when too many wait already."""
    settings = settings or load_settings()
    clean(settings)
    now = datetime.now(UTC)
    inspection_id = f"{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{secrets.token_hex(4)[1:]}"  # sorts by time
    with connect(settings) as client:
        waiting = client.list_workflows(name=WORKFLOW, status="ENQUEUED", limit=settings.live_waiting + 1)
        if len(waiting) >= settings.live_waiting:
            raise JobError(
                f"{len(waiting)} inspections wait already, as many as may (VMOER_LIVE_WAITING); "
                "try again when one has ended"
            )
        write_text(_path(settings, inspection_id, "request.json"), request.model_dump_json())
        client.enqueue(
            {
                "queue_name": QUEUE,
                "workflow_name": WORKFLOW,
                "workflow_id": inspection_id,
                "app_version": jobs.APPLICATION_VERSION,
            },
            inspection_id,
        )
    return inspection_id


def get_inspection(inspection_id: str, settings: Settings | None = None) -> Inspection:
    """One inspection; an unknown id is refused with a sentence."""
    settings = settings or load_settings()
    path = _path(settings, inspection_id, "request.json")
    if not path.exists():
        raise JobError(f"there is no inspection {inspection_id}; results are kept {settings.live_keep_days:g} days")
    with connect(settings) as client:
        rows = client.list_workflows(workflow_ids=[inspection_id], name=WORKFLOW)
        if not rows:
            raise JobError(f"there is no inspection {inspection_id}")
        row = rows[0]
        status = _STATUS.get(row.status, "failed")
        progress = client.get_event(inspection_id, PROGRESS_EVENT, 0) or {}
        ahead = 0
        if status == "queued":
            before = client.list_workflows(name=WORKFLOW, status=["ENQUEUED", "PENDING"], limit=1000)
            ahead = sum(other.workflow_id < inspection_id for other in before)
    message = str(progress.get("message", ""))
    alive = live_executors(settings.home)
    if status == "failed":
        message = str(getattr(row.error, "message", "") or row.error or "the worker died on this inspection")
    elif status == "running" and row.executor_id not in alive:
        status, message = "lost", "its worker is gone; it goes on when `vmoer worker` or `vmoer serve` starts"
    elif status == "running" and (pid := stopped_executors(settings.home).get(str(row.executor_id))) is not None:
        message = stopped_sentence(pid)
    return Inspection(
        inspection_id, status, int(progress.get("done", 0)), int(progress.get("total", 0)), message, ahead
    )


def cancel(inspection_id: str, settings: Settings | None = None) -> None:
    """Stop an inspection after the forward pass in flight."""
    settings = settings or load_settings()
    _path(settings, inspection_id, "request.json")
    with connect(settings) as client:
        client.cancel_workflow(inspection_id)


def workers(settings: Settings | None = None) -> list[str]:
    """Devices whose workers would take an inspection now; a `vmoer run` in a terminal takes none."""
    settings = settings or load_settings()
    alive, stopped = live_executors(settings.home), stopped_executors(settings.home)
    return sorted(
        stem for executor, stem in alive.items() if executor.startswith("worker-") and executor not in stopped
    )


def known_methods(settings: Settings | None = None) -> dict[str, bool]:
    """Return the routing methods beside the deterministic one, and whether each has parameters to train.

    They are those of the worker that started last on this data folder, a third party's too; the built-in ones where
    none ever did.
    """
    settings = settings or load_settings()
    try:
        found = json.loads((settings.home / "workers" / "methods.json").read_text(encoding="utf-8"))
        return {str(name): bool(trainable) for name, trainable in found.items()}
    except (OSError, ValueError, AttributeError):
        return {method.name: method.trainable for method in METHODS if method.name != "deterministic"}


def publish_methods(methods: Mapping[str, bool], settings: Settings) -> None:
    """Leave word of the methods a worker knows; the dashboard, which has no torch, cannot ask the library."""
    write_text(settings.home / "workers" / "methods.json", json.dumps(dict(methods)))


def read_request(inspection_id: str, settings: Settings | None = None) -> Request:
    """What was asked."""
    settings = settings or load_settings()
    try:
        text = _path(settings, inspection_id, "request.json").read_text(encoding="utf-8")
        return Request.model_validate(json.loads(text))
    except (OSError, ValueError):
        raise JobError(f"the request of inspection {inspection_id} is gone or damaged") from None


def read_result(inspection_id: str, settings: Settings | None = None) -> tuple[dict[str, Any], pa.Table]:
    """``(summary, decisions)`` of a finished inspection: see :mod:`pipelines.inspection.compute` for what they hold."""
    settings = settings or load_settings()
    try:
        summary = json.loads(_path(settings, inspection_id, "json").read_text(encoding="utf-8"))
        return summary, pq.read_table(_path(settings, inspection_id, "parquet"))
    except (OSError, ValueError, pa.ArrowException):
        raise JobError(f"the result of inspection {inspection_id} is gone or damaged; inspect it again") from None


def write_result(
    inspection_id: str, summary: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]], settings: Settings
) -> None:
    """Write both parts, the summary last: where it is, the result is complete."""
    with replacing(_path(settings, inspection_id, "parquet")) as temporary:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in decisions]), temporary, compression="zstd")
    write_text(_path(settings, inspection_id, "json"), json.dumps(summary, allow_nan=False, ensure_ascii=True))


def clean(settings: Settings) -> int:
    """Remove results that are too old, then the oldest until the rest fits; how many inspections went."""
    folder = settings.home / "inspections"
    found: dict[str, list[Path]] = {}
    for path in folder.glob("*.*") if folder.is_dir() else ():
        if _ID.fullmatch(path.name.split(".")[0]):
            found.setdefault(path.name.split(".")[0], []).append(path)
    sizes = {}
    ages = {}
    for inspection_id, paths in found.items():
        stats = [path.stat() for path in paths if path.exists()]
        sizes[inspection_id] = sum(stat.st_size for stat in stats)
        ages[inspection_id] = time.time() - max((stat.st_mtime for stat in stats), default=0.0)
    room = settings.live_keep_megabytes * 1e6
    gone = 0
    for inspection_id in sorted(found, reverse=True):  # ids sort by time
        room -= sizes[inspection_id]
        if room < 0 or ages[inspection_id] > settings.live_keep_days * 86400:
            for path in found[inspection_id]:
                path.unlink(missing_ok=True)
            gone += 1
    return gone


def _path(settings: Settings, inspection_id: str, suffix: str) -> Path:
    if not _ID.fullmatch(inspection_id):
        raise JobError(f"{inspection_id[:80]!r} is no id of an inspection")
    return contained(settings.home, settings.home / "inspections" / f"{inspection_id}.{suffix}")
