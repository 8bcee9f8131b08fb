"""Why a model is refused: what was looked for in it, and what was found instead."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from vmoer.errors import UnsupportedModelError

_ROUTER = re.compile(r"(Router|Gate|Gating)$")


def unsupported(model: nn.Module, names: Sequence[str]) -> UnsupportedModelError:
    """Return the error for a model of no family in ``names``: hash-routed, of an unknown MoE family, or dense."""
    name = type(model).__name__
    routers = [(path, type(module).__name__) for path, module in model.named_modules() if _is_router(module)]
    known = f"Supported: {', '.join(names)}."
    hashed = [(path, kind) for path, kind in routers if "Hash" in kind]
    if hashed:
        path, kind = hashed[0]
        return UnsupportedModelError(
            f"{name} picks experts by looking the token id up in a table ({path} is a {kind}): such a choice has no "
            f"uncertainty to model. {known}"
        )
    if routers:
        path, kind = routers[0]
        return UnsupportedModelError(
            f"{name} has routers ({path} is a {kind}), but they are of a family this version does not know; "
            f"docs/extending.md shows how to add one. {known}"
        )
    return UnsupportedModelError(
        f"{name} is dense: none of its modules is a router (looked for classes called …Router, …Gate or …Gating). "
        f"{known}"
    )


def _is_router(module: nn.Module) -> bool:
    return bool(_ROUTER.search(type(module).__name__))
