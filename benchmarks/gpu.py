"""A model of thirty small layers on a GPU: what routers, recording and a training step cost, alone and side by side.

``python -m benchmarks.gpu --processes 8`` starts that many at once; compare with and without NVIDIA's multi-process
service, which lets their kernels run together. Weights are random and of no matter for time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import GraniteMoeSharedConfig, GraniteMoeSharedForCausalLM

from vmoer import bayesianize, record
from vmoer.training.config import Example, TrainingConfig
from vmoer.training.loop import train

#: the shape of smollm2-moe
SHAPE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 48,
    "shared_intermediate_size": 768,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_local_experts": 16,
    "num_experts_per_tok": 8,
}
_PROMPT, _ANSWER, _SEQUENCE = 28, 3, 32


class _Enough(Exception):
    """The step was timed long enough."""


def measure(tokens: int, seconds: float) -> dict[str, float]:
    """Milliseconds of passes over ``tokens`` tokens, and of a training step over 16 questions."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = GraniteMoeSharedForCausalLM(GraniteMoeSharedConfig(**SHAPE))
    model = model.to(device, torch.bfloat16).eval()
    generator = torch.Generator(device).manual_seed(0)
    ids = torch.randint(3, 40_000, (tokens // _SEQUENCE, _SEQUENCE), generator=generator, device=device)
    found = {}
    with torch.inference_mode():
        found["deterministic"] = _each(lambda: model(ids, logits_to_keep=1))
        with bayesianize(model, "fcvr", samples=35):
            found["fcvr"] = _each(lambda: model(ids, logits_to_keep=1))
            with record(model):
                found["fcvr, recorded"] = _each(lambda: model(ids, logits_to_keep=1))
    found["fcvr, training step"] = _step(model, seconds)
    return found


def _each(work: Callable[[], Any], rounds: int = 5) -> float:
    work()
    start = _now()
    for _ in range(rounds):
        work()
    return 1e3 * (_now() - start) / rounds


def _step(model: Any, seconds: float) -> float:
    """Milliseconds of a training step, the first three aside."""
    begun = each = 0.0

    def watch(step: int, total: int, message: str) -> None:
        nonlocal begun, each
        if step == 3:
            begun = _now()
        elif step > 3 and _now() - begun > seconds:
            each = 1e3 * (_now() - begun) / (step - 3)
            raise _Enough

    config = TrainingConfig(epochs=1000, evaluate_every=100_000)
    with bayesianize(model, "fcvr", samples=35) as handle:
        try:
            train(handle, _examples(320, 0), _examples(16, 1), config, progress=watch)
        except _Enough:
            return each
    raise RuntimeError("training ended before it was timed")


def _examples(count: int, seed: int) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(3, 40_000, (count, _PROMPT + _ANSWER), generator=generator).tolist()
    return [Example(row[:_PROMPT], row[_PROMPT:]) for row in rows]


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Print a line per process: ratios to the deterministic pass, and its milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a pass")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long training steps are timed")
    asked = parser.parse_args()
    if asked.processes > 1:
        command = [
            sys.executable,
            "-m",
            "benchmarks.gpu",
            "--tokens",
            str(asked.tokens),
            "--seconds",
            str(asked.seconds),
        ]
        running = [subprocess.Popen(command) for _ in range(asked.processes)]
        sys.exit(max(process.wait() for process in running))
    torch.set_num_threads(1)
    found = measure(asked.tokens, asked.seconds)
    plain = found["deterministic"]
    ratios = ", ".join(f"{name} {value / plain:.2f}" for name, value in found.items() if name != "deterministic")
    print(f"deterministic {plain:.1f} ms per {asked.tokens} tokens; times that: {ratios}", flush=True)


if __name__ == "__main__":
    main()
