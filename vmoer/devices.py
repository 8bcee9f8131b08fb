"""Where a model runs and in which number format, unless the user says otherwise. Speeds were measured, see below."""

from __future__ import annotations

import torch
from torch import nn

from vmoer.errors import ModelSourceError

_TINY = 20_000_000  # parameters below which float32 costs nothing worth having
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(wanted: str | torch.device | None = None) -> torch.device:
    """The device asked for, or the best there is: CUDA, then MPS, then the CPU."""
    if wanted is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ModelSourceError(f"{wanted!r} is not a device; use cpu, cuda, cuda:<n> or mps.") from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        usable = ", ".join(name for name, there in available.items() if there)
        raise ModelSourceError(f"Device {str(wanted)!r} is not available here; use {usable}.")
    return device


def pick_dtype(device: torch.device, n_parameters: int | None, wanted: str | torch.dtype | None = None) -> torch.dtype:
    """The number format of the weights: bfloat16 where the hardware computes in it, else float32.

    smollm2-moe did 1.2 to 1.6 times the tokens per second in bfloat16 on a CPU with AVX512-BF16. Tiny models are always
    float32. On MPS bfloat16 is emulated on the first chips and cannot be told apart, so float32.
    Routing is computed in float32 whatever this is.
    """
    if wanted is not None:
        named = _DTYPES.get(str(wanted).removeprefix("torch."))
        if named is None:
            raise ModelSourceError(f"{str(wanted)!r} is not a supported dtype; use {', '.join(_DTYPES)}.")
        return named
    if n_parameters is not None and n_parameters < _TINY:
        return torch.float32
    fast = {"cuda": _cuda_has_bfloat16, "cpu": _cpu_has_bfloat16}.get(device.type)
    return torch.bfloat16 if fast is not None and fast() else torch.float32


def _cuda_has_bfloat16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities == "AVX512" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def running_device(module: nn.Module) -> torch.device:
    """Where ``module`` runs: the device of its first weight that is not offloaded, the CPU when all are."""
    for parameter in module.parameters():
        if not parameter.is_meta:
            return parameter.device
    return torch.device("cpu")


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's ``state_dict``; weights that accelerate keeps elsewhere are fetched."""
    if not any(parameter.is_meta for parameter in module.parameters()):
        return module.state_dict()
    from accelerate.utils import align_module_device

    with align_module_device(module, torch.device("cpu")):
        return {name: value.clone() for name, value in module.state_dict().items()}
