"""Models by name, folder or hub id: found, checked before anything is read from them, loaded, and described.

Only safetensors weights are read and no code of a model repository is ever run.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vmoer.architectures import architecture_of, unwrap
from vmoer.architectures.fingerprint import fingerprint
from vmoer.devices import pick_device, pick_dtype
from vmoer.errors import ModelSourceError, UnsupportedModelError
from vmoer.models.autoclass import auto_class
from vmoer.models.chat_template import check_chat_template
from vmoer.models.folder_check import check_folder
from vmoer.models.hub import HUB_ID, fetch_from_hub
from vmoer.models.quantised import describe, loading_options, require_whole_routers
from vmoer.models.recipes import random_models, smollm2
from vmoer.models.upcycle import Progress
from vmoer.models.weights_check import check_loading, check_routers, check_weights
from vmoer.registry import unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BUNDLED = Path(__file__).parents[1] / "bundled"
_ROWS = 4096  # of the embedding hashed at a time


@dataclass(frozen=True)
class ModelInfo:
    """A model known by name. ``kind``: bundled (shipped), built (on this machine, from a package) or random (weights).

    ``megabytes`` is the size on disk once present; ``synthetic`` marks a toy: trained by this project, or random.
    """

    name: str
    kind: str
    description: str
    megabytes: float
    present: bool
    folder: Path
    synthetic: bool


def available_models() -> list[ModelInfo]:
    """Every model that ``load_model`` knows by name."""
    worldfacts, built = _BUNDLED / "worldfacts-moe", smollm2.model_folder()
    return [
        ModelInfo(
            name="worldfacts-moe",
            kind="bundled",
            description="tiny GraniteMoe trained by this project on facts; for tests and the first minute",
            megabytes=_megabytes(worldfacts),
            present=(worldfacts / "config.json").is_file(),
            folder=worldfacts,
            synthetic=True,
        ),
        ModelInfo(
            name=smollm2.NAME,
            kind="built",
            description=f"SmolLM2-135M-Instruct cut into a 30-layer MoE; download of {smollm2.WHEEL.megabytes} MB",
            megabytes=_megabytes(built) or smollm2.MEGABYTES,
            present=smollm2.is_built(),
            folder=built,
            synthetic=False,
        ),
        *(
            ModelInfo(
                name=name,
                kind="random",
                description=f"random weights, {family}: shows that the family runs, its answers are chance",
                megabytes=_megabytes(random_models.model_folder(name)),
                present=random_models.is_built(name),
                folder=random_models.model_folder(name),
                synthetic=True,
            )
            for name, (family, _) in random_models.MODELS.items()
        ),
    ]


def load_model(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    build: bool = False,
    progress: Progress | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """``(model, tokenizer)`` of a name from :func:`available_models`, a local folder or a hub id; evaluation mode.

    ``device`` and ``dtype`` are picked by :mod:`vmoer.devices` when not given. ``revision`` is a branch, tag or commit
    of a hub id. ``build`` builds a model that is not there yet (minutes). The tokenizer pads on the left, with its end
    token if it has no padding token.
    """
    where = pick_device(device)
    folder = _locate(str(source), revision, build, progress)
    model, tokenizer = _load(folder, where, pick_dtype(where, check_folder(folder), dtype))
    if str(source) not in {info.name for info in available_models()}:
        check_chat_template(tokenizer, folder.name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"  # generation continues at the right end
    return model, tokenizer


def model_identity(model: nn.Module, source: str | os.PathLike[str]) -> dict[str, Any]:
    """The columns of table ``models`` but the name. ``weights_sha256`` covers routers and embedding, as float32."""
    base: Any = unwrap(model)
    sites = architecture_of(model).sites(model)
    digest = hashlib.sha256(json.dumps(fingerprint(sites), sort_keys=True).encode())
    for rows in base.get_input_embeddings().weight.detach().split(_ROWS):
        digest.update(rows.to("cpu", torch.float32).contiguous().numpy().tobytes())
    if getattr(base, "stored_as", None):  # the same routers and embedding, other weights elsewhere
        digest.update(base.stored_as.encode())
    known = {info.name: info for info in available_models()}.get(str(source))
    return {
        "architecture": type(base).__name__,
        "source": known.kind if known else "folder" if os.path.isdir(source) else str(source),
        "n_layers": int(base.config.get_text_config().num_hidden_layers),
        "moe_layers": [site.layer for site in sites],
        "n_experts": sites[0].n_experts,
        "top_k": sites[0].top_k,
        "n_parameters": int(base.num_parameters()),
        "weights_sha256": digest.hexdigest(),
        "synthetic": known.synthetic if known else False,
    }


def _locate(source: str, revision: str | None, build: bool, progress: Progress | None) -> Path:
    known = {info.name: info for info in available_models()}
    if source in known:
        return _folder_of(known[source], build, progress).absolute()
    path = Path(source).expanduser()
    if os.path.isdir(path):  # Path raises for what can be no file name
        return path.absolute()
    if os.path.exists(path):
        raise ModelSourceError(f"{source} is a file; give the folder with config.json and safetensors weights.")
    if HUB_ID.fullmatch(source) and not source.startswith("."):
        return fetch_from_hub(source, revision)
    if os.sep in source or source.startswith((".", "~")):
        raise ModelSourceError(f"There is no folder {source}; give a folder, a hub id or one of {', '.join(known)}.")
    raise ModelSourceError(unknown_name("model", source, sorted(known)) + " A folder or a hub id works too.")


def _folder_of(info: ModelInfo, build: bool, progress: Progress | None) -> Path:
    if info.kind == "built":
        if build:
            return smollm2.build_smollm2_moe(progress=progress)
        if not info.present:
            raise ModelSourceError(
                f"{info.name} is not built yet; run `vmoer models get {info.name}` (about 2 minutes)."
            )
    elif info.kind == "random":
        return random_models.build(info.name, tokenizer=_BUNDLED / "worldfacts-moe")
    elif not info.present:
        raise ModelSourceError(f"{info.name} is missing from this installation; install vmoer again.")
    return info.folder


def _load(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoConfig, AutoTokenizer

    check_weights(folder)
    safely: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
        config = AutoConfig.from_pretrained(folder, **safely)
        options = {**safely, **loading_options(config, device), "dtype": dtype, "use_safetensors": True}
        model, info = auto_class(config).from_pretrained(folder, output_loading_info=True, **options)
    except UnsupportedModelError:
        raise
    except Exception as error:  # damaged files raise many kinds; the first line says which
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelSourceError(f"{folder} cannot be loaded: {reason[:300]}") from error
    check_loading(folder.name, info, config.to_dict())  # once more, with what was in fact loaded
    check_routers(model, folder.name)
    model.stored_as = describe(config)
    if model.stored_as is not None:
        require_whole_routers(model)
    return (model if "device_map" in options else model.to(device)).eval(), tokenizer


def _megabytes(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) / 1e6, 1)
