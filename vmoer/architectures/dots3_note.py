"""dots3.note, the text model: DeepSeek-V3's rule."""

from __future__ import annotations

from typing import Any

from vmoer.architectures.rules import CorrectedSigmoid
from vmoer.architectures.tiny import indexed_attention_values


class Dots3Note(CorrectedSigmoid):
    """The router sits at ``mlp.gate``; ``mlp_layer_types`` makes the first block dense."""

    classes = ("Dots3NoteForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import Dots3NoteTextConfig

        values = indexed_attention_values()
        return Dots3NoteTextConfig(**{**values, **overrides})
