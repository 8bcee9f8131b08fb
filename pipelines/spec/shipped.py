"""The trained parts that come with VMoER, torch-free: ``routers/<model>/<method>/`` in general, and those of a question
set, with the adapter and MAP routers they were trained on, in ``routers/<model>/<set>/<part>/``.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipelines import resources

#: models that are known by name, in the order they are offered
BUNDLED_MODELS = ("worldfacts-moe", "smollm2-moe", "tiny-random-olmoe", "tiny-random-qwen3-moe")

SHIPPED = resources.ROUTERS
_SHIPPED = re.compile(r"shipped(?::([a-z0-9][a-z0-9-]{0,39}))?")


def is_shipped(source: str) -> bool:
    """Whether a spec's source means what is shipped: ``shipped``, or ``shipped:<set>``."""
    return _SHIPPED.fullmatch(source) is not None


def shipped_part(model: str, source: str, name: str) -> Path | None:
    """The folder of ``adapter``, ``map`` or a method's routers that ``source`` means; ``None`` if not shipped."""
    match = _SHIPPED.fullmatch(source)
    if match is None or model not in BUNDLED_MODELS:
        return None
    folder = SHIPPED / model / (match[1] or "") / name
    return folder if folder.is_dir() else None


def shipped_folder(model: str, method: str) -> Path | None:
    """The checkpoint shipped for a method on a model known by name, or ``None``."""
    folder = SHIPPED / model / method
    return folder if model in BUNDLED_MODELS and (folder / "routers.json").is_file() else None


def shipped_methods(model: str) -> list[str]:
    """Methods with a shipped checkpoint on a model, sorted."""
    if model not in BUNDLED_MODELS:
        return []
    return sorted(path.parent.name for path in (SHIPPED / model).glob("*/routers.json"))
