"""How many tokens a model can read, as its configuration says, and the refusal of texts that are longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vmoer.errors import VmoerError

#: rotary embeddings whose stretched range is what ``max_position_embeddings`` says already
_STRETCHED = ("default", "llama3", "longrope")
#: layers that never look further back than their window
_WINDOWED = ("sliding_attention", "chunked_attention")


def context_limit(config: Any) -> int | None:
    """Most tokens of one text, prompt and answer together; ``None`` for models without a limit.

    ``max_position_embeddings``, or what the configuration's rope scaling makes of it. Sliding windows are no limit, nor
    is there one without positional embeddings (Jamba), whatever number the configuration carries.
    """
    config = config.get_text_config()
    stated = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None)
    if not stated or not rope or getattr(config, "position_embedding_type", "rope") != "rope":
        return None
    by_kind = all(isinstance(value, dict) for value in rope.values())
    kinds = [value for kind, value in rope.items() if kind not in _WINDOWED] if by_kind else [rope]
    return min((_range(stated, kind) for kind in kinds), default=None)


def _range(stated: int, rope: dict[str, Any]) -> int:
    if rope.get("rope_type", "default") in _STRETCHED:
        return int(stated)
    trained = rope.get("original_max_position_embeddings") or stated
    return max(int(stated), round(trained * float(rope.get("factor") or 1.0)))


def refuse_too_long(config: Any, lengths: Sequence[int], what: str) -> None:
    """Refuse texts of these ``lengths`` in tokens when a model cannot read some; ``what`` names them (plural)."""
    most = context_limit(config)
    beyond = [length for length in lengths if most is not None and length > most]
    if beyond:
        raise VmoerError(
            f"{len(beyond)} of {len(lengths)} {what} are longer than the {most:,} tokens this model can read "
            f"(the longest has {max(beyond):,}); shorten them or take a model with a longer context."
        )
