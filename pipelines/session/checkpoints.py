"""Which checkpoint a method's routers come from."""

from __future__ import annotations

from pathlib import Path

from pipelines.session.inputs import Inputs
from vmoer.routers.base import routers


def router_folder(inputs: Inputs, method: str, control: str = "none") -> Path | None:
    """Return the folder of a method's routers; ``None`` for a method without parameters, a third party's too."""
    return inputs.parts.routers(method, control) if routers.get(method).trainable else None
