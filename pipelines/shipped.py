"""The trained routers that come with VMoER: ``routers/<model>/<method>/``; torch-free."""

from __future__ import annotations

from pathlib import Path

#: models that are known by name, in the order they are offered
BUNDLED_MODELS = ("worldfacts-moe", "smollm2-moe", "tiny-random-olmoe", "tiny-random-qwen3-moe")

SHIPPED = Path(__file__).parent / "routers"


def shipped_folder(model: str, method: str) -> Path | None:
    """The checkpoint shipped for a method on a model known by name, or ``None``."""
    folder = SHIPPED / model / method
    return folder if model in BUNDLED_MODELS and (folder / "routers.json").is_file() else None


def shipped_methods(model: str) -> list[str]:
    """Methods with a shipped checkpoint on a model, sorted."""
    if model not in BUNDLED_MODELS:
        return []
    return sorted(path.parent.name for path in (SHIPPED / model).glob("*/routers.json"))
