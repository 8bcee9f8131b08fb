"""The command `vmoer train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipelines import console
from pipelines.cli.root import Device, Json, SpecFile
from pipelines.errors import PipelineError
from pipelines.preparation.command import train_all
from pipelines.settings import load_settings
from pipelines.spec.model import load_spec, places


def train(
    spec_file: SpecFile,
    output: Annotated[Path, typer.Option(help="Folder for the checkpoints: adapter, map, and one folder per method.")],
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 for half the size.")] = "float32",
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Train what a spec describes (`train:` in adapter, map_routers or routers) and write safetensors checkpoints."""
    settings = replace(load_settings(), device=device)
    if dtype not in ("float32", "bfloat16"):
        raise PipelineError(f"--dtype {dtype!r}: give float32 or bfloat16")
    rows = train_all(load_spec(spec_file, settings), places(spec_file), settings, output, dtype, quiet=json_)
    console.print_rows(rows, json_, "nothing to train")
