"""Pick the class of transformers that builds and loads the language model a configuration describes."""

from __future__ import annotations

from typing import Any

from vmoer.errors import UnsupportedModelError


def auto_class(config: Any) -> Any:
    """Return the auto class for ``config``; refuse what is no language model.

    A model that also reads images is loaded as its text model where transformers has one, as a whole otherwise.
    """
    import transformers

    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    if type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    raise UnsupportedModelError(f"{type(config).__name__} describes no causal language model of transformers.")
