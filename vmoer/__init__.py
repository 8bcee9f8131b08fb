"""Routing uncertainty of Mixture-of-Experts language models: put a posterior on the router, record it, take it out.

Public names load lazily (PEP 562), so ``import vmoer.metrics`` needs neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "bayesianize": "vmoer.attach",
    "Handle": "vmoer.handle",
    "load_routers": "vmoer.attach",
    "load_model": "vmoer.models.catalog",
    "open_runs": "vmoer.registry",
    "record": "vmoer.forward.recorder",
    "Recorder": "vmoer.forward.recorder",
    "RoutingTrace": "vmoer.forward.trace",
    "VmoerError": "vmoer.errors",
    "attribute": "vmoer.measure.attribution",
}

__all__ = [
    "Handle",
    "Recorder",
    "RoutingTrace",
    "VmoerError",
    "attribute",
    "bayesianize",
    "load_model",
    "load_routers",
    "open_runs",
    "record",
]

if TYPE_CHECKING:
    from vmoer.attach import bayesianize, load_routers
    from vmoer.errors import VmoerError
    from vmoer.forward.recorder import Recorder, record
    from vmoer.forward.trace import RoutingTrace
    from vmoer.handle import Handle
    from vmoer.measure.attribution import attribute
    from vmoer.models.catalog import load_model
    from vmoer.registry import open_runs


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'vmoer' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
