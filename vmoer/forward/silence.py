"""Why a router's hook does not run: compiled or replaced modules, replicas, passes that leave layers out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vmoer.architectures import Architecture, RouterSite
from vmoer.errors import UnsupportedModelError

_COMPILED = (
    "torch.compile leaves out hooks, and with them Bayesian routing and recording: use the model as it was before "
    "(`compiled._orig_mod`, or the model loaded again)."
)


def compiled_part(model: nn.Module) -> str | None:
    """The path of the first module in ``model`` that runs compiled code, "" for the model itself; else ``None``."""
    for path, module in model.named_modules(remove_duplicate=False):
        forward = vars(module).get("forward")
        in_place = getattr(module, "_compiled_call_impl", None) is not None
        if in_place or "_orig_mod" in module._modules or hasattr(forward, "_torchdynamo_orig_callable"):
            return path
    return None


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a model any part of which is compiled, by its path."""
    path = compiled_part(model)
    if path is not None:
        what = f"{path} of this model is compiled. " if path else ""
        raise UnsupportedModelError(f"{what}{_COMPILED}")


def refuse_wrapper(model: nn.Module) -> None:
    """Refuse a wrapper for several devices, whose hooks belong on the model inside."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UnsupportedModelError(f"{type(model).__name__} wraps the model for several devices; give its `.module`.")


def refuse_replica(module: nn.Module, backbone: nn.Module) -> None:
    """Refuse the copy that ``torch.nn.DataParallel`` makes of a decoder stack for another device."""
    if module is not backbone:
        raise UnsupportedModelError(
            "This forward pass runs in a replica of the model (torch.nn.DataParallel), several of them at once: use "
            "the model itself, or one process per device."
        )


def refuse_capture(device: torch.device) -> None:
    """Refuse a pass that is captured as a CUDA graph, whose replays run no hook."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise UnsupportedModelError(
            "A CUDA graph replays kernels without hooks, so that its routing would be neither sampled nor recorded: "
            "run the model without capturing it."
        )


def refuse_silent_model(model: nn.Module) -> None:
    """Refuse a pass of the whole model in which the hooks of its decoder stack did not run."""
    refuse_compiled(model)
    raise UnsupportedModelError(
        f"{type(model).__name__} answered without running the decoder stack that carries the hooks, so nothing was "
        "sampled or recorded: it was replaced, or this is a compiled copy of the model (generate() makes one for a "
        "static cache on a GPU, unless disable_compile=True); use the model itself, with the routers and "
        "recorders put on it as it is now."
    )


def refuse_silent_layers(model: nn.Module, architecture: Architecture, silent: Sequence[RouterSite]) -> None:
    """Refuse a pass in which the routers ``silent`` did not run, with the cause where it can be seen."""
    refuse_compiled(model)
    now = {site.path: site.router for site in architecture.sites(model)}
    replaced = [site for site in silent if now.get(site.path) is not site.router]
    layers = ", ".join(str(site.layer) for site in silent)
    if replaced:
        raise UnsupportedModelError(
            f"{replaced[0].path} was replaced after hooks were put on it, so the routing of layers {layers} was "
            "neither sampled nor recorded: take the routers and recorders off, and put them on the model as it is now."
        )
    raise UnsupportedModelError(
        f"The forward pass ended without running the routers of layers {layers} (an early exit, skipped layers, or a "
        "kernel that takes the router's place), so their routing was neither sampled nor recorded: run all layers, or "
        "put routers only on layers that run."
    )
