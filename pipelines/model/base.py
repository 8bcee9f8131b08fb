"""What an experiment's routers stand on: the model as loaded, an adapter on it, MAP routers on that.

Every row of an experiment says which base it answered with and by which weights; two rows that name the same base but
were computed with different weights are refused, because their difference would measure the base.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vmoer.architectures.fingerprint import fingerprint
from vmoer.forward.hooks import tap_of
from vmoer.training.adapter import Adapter as ModelAdapter
from vmoer.training.adapter import load_adapter
from vmoer.training.map_routers import MapRouters as ModelMapRouters
from vmoer.training.map_routers import load_map_routers


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
