"""Say which model a checkpoint belongs to, by hashes of its native routers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from vmoer.architectures.base import RouterSite
from vmoer.devices import weights_of


def fingerprint(sites: Iterable[RouterSite], shifts: Mapping[int, nn.Linear] | None = None) -> dict[str, str]:
    """SHA-256 of each native router's weights, by absolute layer: which model a checkpoint belongs to.

    ``shifts`` are the model's fine-tuned routers (``Tap.shifts``), which make it another model. Weights are hashed as
    bfloat16, so that routers trained beside a float32 model also fit the same model in bfloat16.
    """
    digests = {}
    for site in sites:
        digest = hashlib.sha256()
        tensors = dict(weights_of(site.called))
        if shifts and site.layer in shifts:
            tensors["fine-tuned"] = shifts[site.layer].weight
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode())
            rounded = tensor.detach().to("cpu", torch.bfloat16).contiguous()
            digest.update(rounded.view(torch.int16).numpy().tobytes())
        digests[str(site.layer)] = digest.hexdigest()
    return digests
