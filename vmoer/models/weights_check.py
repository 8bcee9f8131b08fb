"""Whether a checkpoint holds every tensor of its model, and no other: asked of the files' headers, before loading.

transformers loads what fits, draws the rest at random and only logs it. Here its own loading code runs on the meta
device, over names and shapes alone, so that renamed and fused tensors are judged exactly as they will be loaded.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vmoer.architectures import architecture_of
from vmoer.errors import ModelSourceError, UnsupportedModelError
from vmoer.models import safetensors_check as safefile
from vmoer.models.autoclass import auto_class
from vmoer.models.folder_check import INDEX

_SHOWN = 3
_FLOATS = ("F64", "F32", "F16", "BF16")
_EXPERT = re.compile(r"(.*\bexperts\.)(\d+)(\..+)")
_LAYER = re.compile(r"(.*\blayers\.)(\d+)\.(.+)")

Shapes = Mapping[str, tuple[int, ...]]


def check_weights(folder: Path) -> bool:
    """Whether the headers in ``folder`` were compared with its configuration; raises for what lacks or does not fit.

    False for quantised checkpoints, whose tensors are compared while they are loaded.
    """
    from transformers import AutoConfig

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config"):
        return False
    shapes = stored_shapes(folder)
    _check_experts(folder.name, shapes)
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    try:
        with _silence():
            settings = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            with torch.device("meta"):
                model = auto_class(settings).from_config(settings)
            _, info = type(model).from_pretrained(
                None,
                config=model.config,
                state_dict=tensors,
                device_map={"": "meta"},
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are collected, and refused below
                output_loading_info=True,
            )
    except UnsupportedModelError:
        raise
    except Exception as error:  # configurations and conversions fail in many ways; the first line says which
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelSourceError(f"The tensors of {folder} do not fit its config.json: {reason[:300]}") from error
    check_loading(folder.name, info, config)
    return True


def check_loading(source: str, info: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> None:
    """Refuse what ``from_pretrained(output_loading_info=True)`` reports as missing, unexpected or mismatched.

    Tied weights and names that transformers leaves out by design are not in its report. Heads that predict several
    tokens ahead (as many as ``num_nextn_predict_layers`` in ``config``) are left out of the model as well.
    """
    unexpected = set(info["unexpected_keys"]) - _prediction_heads(info["unexpected_keys"], config or {})
    mismatched = {name: (tuple(found), tuple(wanted)) for name, found, wanted in info["mismatched_keys"]}
    sentence = _differences(info["missing_keys"], unexpected, mismatched)
    if sentence:
        why = ", because missing weights would be random numbers" if info["missing_keys"] else ""
        raise ModelSourceError(
            f"The weights of {source} do not match its configuration: {sentence}; nothing was computed{why}."
        )


def check_routers(model: nn.Module, source: str) -> None:
    """Refuse a model whose routers hold values that are not finite, or choose more experts than there are.

    Dense models and families that are not known have no routers to check.
    """
    try:
        architecture = architecture_of(model)
    except UnsupportedModelError:
        return
    for site in architecture.sites(model):
        for name, parameter in site.router.named_parameters():
            if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
                raise ModelSourceError(
                    f"The router of layer {site.layer} of {source} holds values that are not finite ({name}); its "
                    "choice of experts would mean nothing."
                )


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What ``found`` lacks, has too much or in another shape than ``expected``, in words; empty when nothing."""
    mismatched = {
        name: (tuple(found[name].shape), tuple(expected[name].shape))
        for name in found.keys() & expected.keys()
        if found[name].shape != expected[name].shape
    }
    return _differences(expected.keys() - found.keys(), found.keys() - expected.keys(), mismatched)


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor that transformers reads from ``folder``; a missing shard is refused."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _files(folder):
        try:
            entries = safefile.entries(path)
            _check_types(folder.name, entries)
            shapes |= {name: tuple(entry["shape"]) for name, entry in entries.items()}
        except (safefile.SafetensorError, OSError) as error:
            raise ModelSourceError(f"{path} is damaged or not a safetensors file ({error}).") from error
    return shapes


def _files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not (folder / INDEX).is_file():
        raise ModelSourceError(f"{folder} has neither model.safetensors nor {INDEX}, which says what its files hold.")
    listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    names = sorted(set(listed.values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        tensors = [tensor for tensor, name in listed.items() if name in absent]
        raise ModelSourceError(
            f"{folder.name} lacks {_some(absent)} of the {len(names)} files that {INDEX} names, and with them "
            f"{len(tensors)} tensors ({_some(tensors)}); fetch the whole checkpoint."
        )
    return [folder / name for name in names]


def _check_types(source: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse weights that are no floating-point numbers in a checkpoint that does not say how it is quantised."""
    wrong = [
        f"{name} ({entry['dtype']})"
        for name, entry in entries.items()
        if name.endswith((".weight", ".bias")) and entry["dtype"] not in _FLOATS
    ]
    if wrong:
        raise ModelSourceError(
            f"The weights of {source} hold {_some(wrong)}, but no quantization_config in its config.json says how to "
            "read them; nothing was computed."
        )


def _check_experts(source: str, shapes: Iterable[str]) -> None:
    """Refuse a gap in numbered experts: the slices after it would be fused one place too early."""
    numbers: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for name in shapes:
        if match := _EXPERT.fullmatch(name):
            numbers[match[1]][match[3]].add(int(match[2]))
    missing = []
    for before, parts in numbers.items():
        experts = range(max(max(found) for found in parts.values()) + 1)
        missing += [f"{before}{n}{after}" for after, found in parts.items() for n in experts if n not in found]
    if missing:
        raise ModelSourceError(
            f"The weights of {source} lack the expert slices {_some(missing)}; nothing was computed, because the other "
            "experts would take their places."
        )


def _prediction_heads(unexpected: Collection[str], config: Mapping[str, Any]) -> set[str]:
    """Tensors of the layers behind the last one that ``config`` calls heads for tokens further ahead."""
    count, layers = config.get("num_nextn_predict_layers"), config.get("num_hidden_layers")
    if not isinstance(count, int) or not isinstance(layers, int):
        return set()
    behind: dict[str, set[str]] = defaultdict(set)
    for name in unexpected:
        if (match := _LAYER.fullmatch(name)) and layers <= int(match[2]) < layers + count:
            behind[match[2]].add(name)
    # such a head joins a hidden state and an embedding by this projection, which no decoder layer has
    heads = [names for names in behind.values() if any(".eh_proj." in name for name in names)]
    return set().union(*heads)


def _differences(
    missing: Iterable[str], unexpected: Iterable[str], mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> str:
    parts = []
    if missing := sorted(missing, key=_natural):
        parts.append(f"it lacks {_some(missing)}")
    if unexpected := sorted(unexpected, key=_natural):
        parts.append(f"it has {_some(unexpected)}, which the model has no place for")
    if mismatched:
        shapes = [
            f"{name} ({list(found)} instead of {list(wanted)})"
            for name, (found, wanted) in sorted(mismatched.items(), key=lambda item: _natural(item[0]))
        ]
        parts.append(f"other shapes have {_some(shapes)}")
    return "; ".join(parts)


def _some(names: list[str]) -> str:
    """The first few names and how many more there are."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers' own report and bar off the terminal: the refusal says what is wrong."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
