"""Checkpoints changed on purpose, with the checksums that go with the change: what else is wrong must be said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from vmoer import checkpoint

KINDS = (checkpoint.ROUTERS, checkpoint.MAP_ROUTERS, checkpoint.ADAPTER)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply ``change`` to the JSON of a checkpoint and sign it."""
    path = next(folder / kind.config for kind in KINDS if (folder / kind.config).is_file())
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(checkpoint.signed(config)))


def edit_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply ``change`` to the weights of a checkpoint by name, and sign them."""
    path = next(folder / kind.weights for kind in KINDS if (folder / kind.weights).is_file())
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(folder, lambda config: config.update(weights_sha256=digest))
