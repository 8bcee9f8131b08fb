"""What a model is, from its configuration alone: built on the meta device, so a checkpoint of any size takes no memory.

Multiply–accumulates (MACs) per token are counted from the parameters: a matrix multiplies each token once, of the
experts only k of E do, embeddings are looked up. Attention scores and element-wise work are left out.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmoer.architectures import RouterSite, architecture_of, unwrap
from vmoer.errors import ModelSourceError, UnsupportedModelError
from vmoer.models.autoclass import auto_class
from vmoer.models.folder_check import hub_kernels

#: skeletons by class and content of their configuration
_KNOWN: dict[tuple[str, str], Skeleton] = {}


@dataclass(frozen=True)
class Skeleton:
    """Sizes of one model; ``layer_macs`` holds the MACs per token of each decoder layer, ``head_macs`` of the head."""

    class_name: str
    rule: str
    moe_layers: tuple[int, ...]
    n_experts: int
    top_k: int
    hidden_size: int
    n_parameters: int
    n_active: int
    layer_macs: tuple[int, ...]
    head_macs: int
    dtype: str
    softmax: bool
    bayesian_refusal: str

    @property
    def macs(self) -> int:
        """MACs per token of the whole model, language-model head included."""
        return sum(self.layer_macs) + self.head_macs


def skeleton_of(model: nn.Module) -> Skeleton:
    """The sizes of ``model``, whose weights may be on any device, the meta device included."""
    base: Any = unwrap(model)
    architecture = architecture_of(base)
    sites = {site.layer: site for site in architecture.sites(base)}
    if not sites:
        raise UnsupportedModelError(f"{type(base).__name__} has no MoE layer: every block is dense.")
    first = next(iter(sites.values()))
    macs, idle = [], 0
    for layer, block in enumerate(architecture.decoder_layers(base)):
        total = 0
        experts = {id(p) for p in sites[layer].block.parameters() if _is_expert(p, first)} if layer in sites else set()
        for name, parameter in block.named_parameters():
            used = parameter.numel()
            if id(parameter) in experts:
                used = used * first.top_k // first.n_experts
                idle += parameter.numel() - used
            total += used if parameter.dim() > 1 and not name.endswith("bias") else 0
        macs.append(total)
    parameters = sum(parameter.numel() for parameter in base.parameters())
    return Skeleton(
        class_name=type(base).__name__,
        rule=architecture.rule,
        moe_layers=tuple(sites),
        n_experts=first.n_experts,
        top_k=first.top_k,
        hidden_size=first.hidden_size,
        n_parameters=parameters,
        n_active=parameters - idle,
        layer_macs=tuple(macs),
        head_macs=base.get_output_embeddings().weight.numel(),
        dtype=str(base.config.get_text_config().dtype or base.config.dtype or base.dtype).removeprefix("torch."),
        softmax=architecture.softmax,
        bayesian_refusal=architecture.bayesian_refusal,
    )


def skeleton_from_config(config: Any, source: str = "") -> Skeleton:
    """The sizes of the causal language model that a Hugging Face ``config`` (read from ``source``) describes."""
    key = (type(config).__name__, config.to_json_string(use_diff=False))
    if key not in _KNOWN:
        _KNOWN[key] = _build(copy.deepcopy(config), source or type(config).__name__)
    return _KNOWN[key]


def read_config(path: Path) -> Any:
    """The Hugging Face configuration in the file ``path``; what is no model of transformers is refused."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelSourceError(f"{path} cannot be read as JSON.") from error
    if not isinstance(values, dict):
        raise ModelSourceError(f"{path} is no JSON object, as a configuration must be.")
    kind = values.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise UnsupportedModelError(f"{path} is of type {kind!r}, which this version of transformers does not know.")
    for kernel in hub_kernels(values):
        raise UnsupportedModelError(f"{path} asks for {kernel[:80]!r}, a kernel from the hub, which vmoer never runs.")
    try:
        # reads what transformers has written in a notation of its own, such as infinite numbers
        return AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # every configuration class checks its own values in its own way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelSourceError(f"{path} is no valid configuration of {kind}: {reason[:300]}") from error


def _build(config: Any, where: str) -> Skeleton:
    auto = auto_class(config)
    try:
        with torch.device("meta"):
            model = auto.from_config(config)
    except Exception as error:  # a value that no part of the model knows is found where that part is built
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        raise ModelSourceError(
            f"{where} describes a model that transformers cannot build: {type(error).__name__}: {reason}"
        ) from error
    return skeleton_of(model)


def _is_expert(parameter: nn.Parameter, site: RouterSite) -> bool:
    """Whether a parameter of an MoE block is one matrix per expert, ``[experts, rows, columns]``."""
    return parameter.dim() == 3 and parameter.shape[0] == site.n_experts
