"""What an experiment's routers stand on: the model as loaded, an adapter on it, MAP routers on that.

Every row of an experiment says which base it answered with and by which weights; two rows that name the same base but
were computed with different weights are refused, because their difference would measure the base.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipelines.context import Context
from pipelines.errors import PipelineError, SpecError
from pipelines.manifests import existing
from pipelines.routing import part_folder
from pipelines.runs import RunPlan
from pipelines.shipped import is_shipped, shipped_part
from pipelines.spec import Adapter, MapRouters, resolve_path
from vmoer.adapter import Adapter as ModelAdapter
from vmoer.adapter import load_adapter
from vmoer.architectures.fingerprint import fingerprint
from vmoer.map_routers import MapRouters as ModelMapRouters
from vmoer.map_routers import load_map_routers
from vmoer.tap import tap_of


class Base:
    """The adapter and the MAP routers that are on one model, as folders; taken off in the reverse order."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._folders: tuple[Path | None, Path | None] = (None, None)
        self._adapter: ModelAdapter | None = None
        self._map: ModelMapRouters | None = None

    def put(self, adapter: Path | None, map_routers: Path | None) -> None:
        """Make exactly these two be on the model; nothing happens when they are."""
        if (adapter, map_routers) == self._folders:
            return
        self.clear()
        if adapter is not None:
            self._adapter = load_adapter(self.model, adapter)
        if map_routers is not None:
            self._map = load_map_routers(self.model, map_routers)
        self._folders = (adapter, map_routers)

    def clear(self) -> None:
        """The model as it was loaded."""
        for part in (self._map, self._adapter):
            if part is not None:
                part.restore()
        self._adapter = self._map = None
        self._folders = (None, None)

    def identity(self) -> dict[str, str | None]:
        """SHA-256 of the adapter and of all routers as they are now."""
        tap = tap_of(self.model)
        routers = json.dumps(fingerprint(tap.sites, tap.shifts), sort_keys=True)
        return {"adapter_sha256": tap.adapter, "routers_sha256": hashlib.sha256(routers.encode()).hexdigest()}


def adapter_folder(context: Context) -> Path | None:
    """Where the experiment's adapter lies, or will lie once it is trained; ``None`` without one."""
    return None if context.spec.adapter is None else _folder(context, context.spec.adapter, "adapter")


def map_folder(context: Context) -> Path | None:
    """Where the experiment's MAP routers lie, or will lie once they are trained; ``None`` without them."""
    return None if context.spec.map_routers is None else _folder(context, context.spec.map_routers, "map")


def _folder(context: Context, part: Adapter | MapRouters, name: str) -> Path:
    if part.train is not None:
        return part_folder(context, name)
    source = str(part.source)
    if not is_shipped(source):
        return resolve_path(source, context.folders)
    folder = shipped_part(context.spec.model, source, name)
    if folder is None:
        raise SpecError(f"{name}: none is {source} for {context.spec.model}; give a folder or {{train: {{data: …}}}}")
    return folder


def check_same_base(context: Context, run: RunPlan, card: dict[str, Any]) -> None:
    """Refuse a row whose base has the name, but not the weights, of a row that is already there."""
    for other in context.spec.runs():
        manifest = existing(context.home, other.run_id) if other.run_id != run.run_id else None
        stored = manifest.card.get("base") if manifest is not None else None
        if stored is None or stored["base"] != card["base"]:
            continue
        for key, what in (("adapter_sha256", "adapter"), ("routers_sha256", "base routers")):
            if stored[key] != card[key]:
                raise PipelineError(
                    f"run {run.run_id} would be compared with {other.run_id}, but its {what} differ "
                    f"({str(card[key])[:12]} against {str(stored[key])[:12]}); give the spec another `name`"
                )
