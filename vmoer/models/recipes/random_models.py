"""Models with random weights of families nobody can ship: seconds to make, the same bits from the same seed.

They show that the pipeline works on a family (OLMoE, Qwen3-MoE), and nothing else: their answers are chance. They take
the tokenizer of ``worldfacts-moe``, so that the built-in questions can be asked.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from vmoer.architectures import architectures
from vmoer.models.recipes import smollm2

#: name → transformers class, and what differs from the family's tiny configuration
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny-random-olmoe": ("OlmoeForCausalLM", {"num_hidden_layers": 4}),
    "tiny-random-qwen3-moe": ("Qwen3MoeForCausalLM", {"num_hidden_layers": 4, "mlp_only_layers": [1]}),
}
_SEED = 0


def model_folder(name: str) -> Path:
    """Where a random model is kept: below ``VMOER_CACHE``, or ``~/.cache/vmoer``."""
    return smollm2.model_folder().parent / name


def is_built(name: str) -> bool:
    """Whether the model has been made on this machine."""
    return (model_folder(name) / "config.json").is_file()


def build(name: str, tokenizer: Path) -> Path:
    """The folder of the model, made first if it is not there; ``tokenizer`` is a folder that holds one."""
    target = model_folder(name)
    if is_built(name):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
        folder = Path(scratch) / "model"
        _make(name, tokenizer).save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / file, folder)
        with suppress(OSError):  # another process was first: its model has the same bits
            os.replace(folder, target)
    return target


def _make(name: str, tokenizer: Path) -> Any:
    import transformers
    from transformers import AutoTokenizer

    family, changes = MODELS[name]
    words = AutoTokenizer.from_pretrained(tokenizer)
    size = {"vocab_size": len(words), "max_position_embeddings": 512, "initializer_range": 0.05}
    special = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    config = architectures.get(family)().tiny_config(family, **size, **special, pad_token_id=None, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return getattr(transformers, family)(config)
