"""Load checkpoints whose weights are stored in fewer bits, with routers that are not.

MXFP4 (GPT-OSS) and FP8 (DeepSeek) are unpacked while they are read, so that every device can run them. What
bitsandbytes and others store stays packed and is multiplied by kernels of their own, which their packages bring.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vmoer.architectures import architecture_of
from vmoer.errors import UnsupportedModelError

#: methods whose weights transformers unpacks on any device, and the class that says so
_UNPACKED = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}


def method_of(config: Any) -> str | None:
    """Return the name of the method that a configuration's weights were quantised with, if they were."""
    method = _values(config).get("quant_method")
    return None if method is None else str(getattr(method, "value", method))


def loading_options(config: Any, device: torch.device) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs beside the folder: unpack the weights, or place packed ones at once."""
    import transformers

    method = method_of(config)
    if method is None:
        return {}
    if method in _UNPACKED:
        return {"quantization_config": getattr(transformers, _UNPACKED[method])(dequantize=True)}
    return {"device_map": {"": device}}


def describe(config: Any) -> str | None:
    """Return how weights are kept: ``bitsandbytes 4-bit (nf4)``, ``mxfp4, unpacked``; ``None`` if not quantised."""
    method = method_of(config)
    if method is None or method in _UNPACKED:
        return None if method is None else f"{method}, unpacked"
    values = _values(config)
    if method == "bitsandbytes":
        return (
            f"{method} 4-bit ({values.get('bnb_4bit_quant_type')})" if values.get("load_in_4bit") else f"{method} 8-bit"
        )
    return f"{method} {values['bits']}-bit" if values.get("bits") else method


def require_whole_routers(model: nn.Module) -> None:
    """Refuse a model whose routers were quantised with the rest: a routing decision needs their full weights."""
    for site in architecture_of(model).sites(model):
        for name, parameter in site.router.named_parameters():
            if not parameter.is_floating_point() or parameter.itemsize < 2:
                raise UnsupportedModelError(
                    f"The routers of this {type(model).__name__} are quantised ({site.path}.{name} is "
                    f"{str(parameter.dtype).removeprefix('torch.')}): quantise the checkpoint without them."
                )


def _values(config: Any) -> dict[str, Any]:
    found = getattr(config, "quantization_config", None)
    return found if isinstance(found, dict) else found.to_dict() if found is not None else {}
