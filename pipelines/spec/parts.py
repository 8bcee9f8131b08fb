"""Where the weights of an experiment lie: its adapter, its MAP routers, the routers of its methods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import SpecError
from pipelines.spec.model import Spec, resolve_path
from pipelines.spec.sections import Adapter, MapRouters
from pipelines.spec.shipped import is_shipped, shipped_part
from store.layout import contained
from vmoer.methods import has_kl


@dataclass(frozen=True)
class Parts:
    """The folders of what a spec uses, whether they are there yet or will be once it is trained.

    ``output`` is where ``vmoer train`` writes what the spec trains, instead of the data folder ``home``.
    """

    spec: Spec
    home: Path
    folders: Sequence[str] = ()
    output: Path | None = None

    def adapter(self) -> Path | None:
        """Return the folder of the adapter; ``None`` without one."""
        return None if self.spec.adapter is None else self._given(self.spec.adapter, "adapter")

    def map_routers(self) -> Path | None:
        """Return the folder of the MAP routers; ``None`` without them."""
        return None if self.spec.map_routers is None else self._given(self.spec.map_routers, "map")

    def routers(self, method: str, control: str = "none") -> Path | None:
        """Return the folder of a trainable method's routers; ``None`` where the spec leaves them untrained."""
        if self.spec.routers.source == "untrained":
            return None
        name = f"{method}.beta-zero" if control == "beta-zero" else method
        if self.spec.routers.train is not None:
            return self.trained(name)
        source = str(self.spec.routers.source)
        if is_shipped(source):
            shipped = shipped_part(self.spec.model, source, name)
            if shipped is None:
                raise SpecError(
                    f"routers: none are {source} for {name} on {self.spec.model}; give a folder, `untrained`, "
                    "or {train: {data: …}}"
                )
            return shipped
        folder = resolve_path(source, self.folders)
        nested = folder / name
        return nested if (nested / "routers.json").is_file() or control == "beta-zero" else folder

    def trained(self, name: str) -> Path:
        """Return the folder of something that the spec trains, named by a hash of what decides its weights.

        So experiments share it. ``name`` is ``adapter``, ``map``, a method, or a method with ``.beta-zero``.
        """
        if self.output is not None:
            return self.output / name
        spec = self.spec.canonical()
        decides: dict[str, Any] = {key: spec[key] for key in ("model", "dtype", "adapter")}
        decides |= {"name": name}
        if name != "adapter":
            decides |= {"map": spec["map_routers"] if name == "map" or spec["base"] == "map" else None}
        decides |= {key: spec[key] for key in ("truncate",) if key in spec}
        if name not in ("adapter", "map"):
            method = name.removesuffix(".beta-zero")
            measured_on = spec["data"]["validation"] or spec["data"]["id"]
            decides |= {key: spec[key] for key in ("base", "layers", "samples", "routers")}
            decides |= {"options": spec["options"].get(method, {}), "measured_on": measured_on}
            # what Spec.revisions means for the weights of this method
            revised = {"kl-by-tokens": has_kl(method), "temperature-in-spread": method == "vtsr"}
            decides |= {"revisions": names} if (names := [name for name, applies in revised.items() if applies]) else {}
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
        return contained(self.home, self.home / "routers" / f"{digest}.{name}")

    def _given(self, part: Adapter | MapRouters, name: str) -> Path:
        if part.train is not None:
            return self.trained(name)
        source = str(part.source)
        if not is_shipped(source):
            return resolve_path(source, self.folders)
        folder = shipped_part(self.spec.model, source, name)
        if folder is None:
            raise SpecError(f"{name}: none is {source} for {self.spec.model}; give a folder or {{train: {{data: …}}}}")
        return folder
