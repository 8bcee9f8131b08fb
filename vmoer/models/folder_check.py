"""What a model folder may hold before transformers reads it: known types, safetensors, and nothing that names code.

``trust_remote_code=False`` and ``use_safetensors=True`` do not suffice. An index may send transformers to a pickle or
out of the folder, an attention kernel named in ``config.json`` is code fetched from the hub, and an adapter beside the
weights is read as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vmoer.errors import ModelSourceError, UnsupportedModelError
from vmoer.models import safetensors_check as safefile
from vmoer.models.hub import require_safetensors

INDEX = "model.safetensors.index.json"
#: the largest text file of a model that is read; the tokenizers of 2026 have up to 35 MB
MAX_TEXT = 128 * 2**20
_IMPLEMENTATION = re.compile(r"implementation(_internal)?$")
_WEIGHT_FILE = re.compile(r"[^/\\\0]+\.safetensors")


def check_folder(folder: Path) -> int:
    """The number of parameters stored in ``folder``; raises unless it holds a model that can be read safely."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not (folder / "config.json").is_file():
        raise ModelSourceError(f"{folder} has no config.json; give the folder that `save_pretrained` wrote.")
    for file in folder.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and file.stat().st_size > MAX_TEXT:
            raise ModelSourceError(
                f"{file.name} of {folder.name} has {file.stat().st_size:,} bytes; at most {MAX_TEXT:,} are read."
            )
    config = _json_object(folder, "config.json")
    model_type = config.get("model_type")
    known = isinstance(model_type, str) and model_type in CONFIG_MAPPING
    if not known and "auto_map" in config:
        raise UnsupportedModelError(
            f"{folder.name} needs code from its own repository, which vmoer never runs; "
            "use a model that transformers supports."
        )
    if not known:
        raise UnsupportedModelError(
            f"{folder.name} is of type {model_type!r}, which this version of transformers does not know."
        )
    for kernel in hub_kernels(config):
        raise UnsupportedModelError(
            f"The config.json of {folder.name} asks for {kernel[:80]!r}, a kernel from the hub: that is code, which "
            "vmoer never fetches or runs; remove that key."
        )
    if (folder / "adapter_config.json").exists():
        raise ModelSourceError(
            f"{folder.name} holds an adapter beside the model; merge it first, or remove adapter_config.json."
        )
    require_safetensors(str(folder), [file.name for file in folder.iterdir()])
    _check_index(folder)
    return sum(_parameters(path) for path in sorted(folder.glob("*.safetensors")))


def _json_object(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ModelSourceError(f"The {name} of {folder} is not a JSON object.")
    return content


def hub_kernels(value: Any) -> Iterator[str]:
    """Every implementation at any depth of a configuration that is a repository on the hub (``owner/name``)."""
    if isinstance(value, list):
        for item in value:
            yield from hub_kernels(item)
    if isinstance(value, dict):
        for key, item in value.items():
            chosen = item.values() if isinstance(item, dict) else [item]
            if _IMPLEMENTATION.search(key):
                yield from (name for name in chosen if isinstance(name, str) and "/" in name)
            yield from hub_kernels(item)


def _check_index(folder: Path) -> None:
    """An index names safetensors files of this folder and nothing else."""
    if not (folder / INDEX).exists():
        return
    listed = _json_object(folder, INDEX).get("weight_map")
    if not isinstance(listed, dict):
        raise ModelSourceError(f"The {INDEX} of {folder.name} has no weight_map.")
    for name in listed.values():
        if not isinstance(name, str) or not _WEIGHT_FILE.fullmatch(name):
            raise ModelSourceError(
                f"The {INDEX} of {folder.name} names {str(name)[:80]!r}; only safetensors files of the folder are read."
            )


def _parameters(path: Path) -> int:
    try:
        return safefile.check(path)
    except (safefile.SafetensorError, OSError) as error:
        raise ModelSourceError(f"{path} is damaged or not a safetensors file ({error}).") from error
