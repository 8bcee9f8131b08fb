"""What only a GPU can show: the same promises, the same answers, its memory filled and shared, work done beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vmoer
from vmoer import testing
from vmoer.devices import pick_device, pick_dtype
from vmoer.measure.measured_cost import peak_bytes
from vmoer.rng import TokenNoise
from vmoer.routers import routers
from vmoer.scoring.options import score_options
from vmoer.scoring.token_budget import CudaMemory, TokenBudget, probe
from vmoer.testing import methods, tiny, tiny_batch, tiny_model
from vmoer.testing.compare import trace_of
from vmoer.training.config import TrainingConfig
from vmoer.training.loop import train

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

FAMILIES = ("GraniteMoeForCausalLM", "DeepseekV3ForCausalLM")
PROMPTS = [f"question number {number}" + " and more" * (number % 3) for number in range(16)]
OPTIONS = [[" yes", " no", " maybe"]] * 16


class Words:
    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [3 + ord(letter) % 60 for letter in text]}


def there(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.cuda() for name, value in batch.items()}


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The conformance suite's models and batches on the GPU."""
    monkeypatch.setattr(methods, "tiny_model", lambda *a, **k: tiny.tiny_model(*a, **k).cuda())
    monkeypatch.setattr(methods, "tiny_batch", lambda *a, **k: there(tiny.tiny_batch(*a, **k)))
    monkeypatch.setattr(methods, "tiny_row", lambda *a, **k: there(tiny.tiny_row(*a, **k)))


@pytest.mark.parametrize("check", testing.METHOD_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("method", routers.names())
@pytest.mark.parametrize("family", FAMILIES)
def test_method_conforms(check: Any, method: str, family: str, on_gpu: None) -> None:
    check(method, family)


def test_random_numbers_are_those_of_the_cpu() -> None:
    keys = torch.randint(-(2**62), 2**62, (500,), generator=torch.Generator().manual_seed(0))
    here, gpu = TokenNoise(keys, 5), TokenNoise(keys.cuda(), 5)
    assert torch.equal(here.uniform(7, 16), gpu.uniform(7, 16).cpu())
    assert torch.equal(here.keep(7, 19, 0.25), gpu.keep(7, 19, 0.25).cpu())
    torch.testing.assert_close(here.normal(7, 16), gpu.normal(7, 16).cpu(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("method", ["deterministic", "fcvr", "vtsr"])
def test_the_trace_is_that_of_the_cpu(method: str) -> None:
    traces = []
    for device in ("cpu", "cuda"):
        model = tiny_model().to(device)
        batch = {name: value.to(device) for name, value in tiny_batch().items()}
        with vmoer.bayesianize(model, method, samples=5, seed=3):
            traces.append(trace_of(model, batch))
    testing.compare.assert_same_decisions(*traces, f"{method} on the GPU")


def test_recording_waits_for_what_it_copies() -> None:
    """Copies to pinned memory run beside the computation; a trace read too early would hold garbage."""
    model = tiny_model(hidden_size=64).cuda()
    batch = there(tiny_batch(lengths=(400,) * 16))
    reference = trace_of(model, batch)
    busy = torch.randn(6000, 6000, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    for _ in range(5):
        for _ in range(20):
            busy = torch.tanh(busy @ busy)  # the stream is far behind when the model's pass is launched
        found = trace_of(model, batch)
        np.testing.assert_array_equal(found.expert_index, reference.expert_index)
        np.testing.assert_array_equal(found.gate_weight, reference.gate_weight)


def test_a_probe_finds_a_pass_that_fits_and_an_exhausted_memory_is_halved() -> None:
    model = tiny_model(vocab_size=64, hidden_size=256).cuda()
    device = pick_device("cuda")
    memory = CudaMemory(device)
    torch.cuda.empty_cache()
    asked: dict[str, Any] = {"samples": 1}
    undisturbed = score_options(model, Words(), PROMPTS * 8, OPTIONS * 8, batch_tokens=1 << 16, **asked)

    def work(tokens: int) -> None:
        score_options(model, Words(), PROMPTS * 8, OPTIONS * 8, batch_tokens=tokens)

    whole = sum(len(prompt) for prompt in PROMPTS) * 8
    small, large = memory.peak(lambda: work(64)), memory.peak(lambda: work(whole))
    assert small < large, "a larger pass takes no more memory, so the test shows nothing"
    assert probe(work, 64, whole, memory) == whole
    total = torch.cuda.get_device_properties(device).total_memory
    told: list[str] = []
    budget = TokenBudget(whole, tell=told.append)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((memory.used() + (large - memory.used()) * 0.6) / total)
    try:
        halved = score_options(model, Words(), PROMPTS * 8, OPTIONS * 8, batch_tokens=budget, **asked)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert told, "memory never ran out"
    assert budget.tokens < whole
    for one, other in zip(undisturbed, halved, strict=True):
        np.testing.assert_allclose(other.log_likelihood, one.log_likelihood, rtol=1e-4)


def test_checkpoints_cross_devices(tmp_path: Path) -> None:
    model = tiny_model().cuda()
    with vmoer.bayesianize(model, "fcvr", samples=5, seed=3) as handle:
        for parameter in handle.routers.parameters():
            parameter.data.add_(0.01)
        handle.save(tmp_path)
        there_trace = trace_of(model, there(tiny_batch()))
    here = tiny_model()
    with vmoer.load_routers(here, tmp_path):
        testing.compare.assert_same_decisions(there_trace, trace_of(here, tiny_batch()), "loaded on the CPU")
    with vmoer.load_routers(model, tmp_path):
        testing.compare.assert_same_decisions(there_trace, trace_of(model, there(tiny_batch())), "loaded on the GPU")


@pytest.mark.parametrize("kind", ["adapter", "map", "fcvr"])
def test_training_goes_on_where_it_stopped(kind: str, tmp_path: Path) -> None:
    from tests.vmoer.test_training_stages import CONFIG, TRAIN, VALIDATION, Killed, start

    model = tiny_model().cuda()

    def run(folder: Path, kill_at: int | None) -> tuple[dict[str, torch.Tensor], Any]:
        learner, restore = start(kind, model)

        def progress(step: int, total: int, message: str) -> None:
            if step == kill_at:
                raise Killed

        try:
            result = train(learner, TRAIN, VALIDATION, CONFIG, folder=folder, progress=progress)
            return learner.snapshot(), result
        finally:
            restore()

    undisturbed, result = run(tmp_path / "calm", None)
    losses = [value for _, layer, quantity, value in result.log if (layer, quantity) == (-1, "task_loss")]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    with pytest.raises(Killed):
        run(tmp_path / "killed", 3)
    resumed, _ = run(tmp_path / "killed", None)
    for name, value in undisturbed.items():  # sums of a GPU may end in other last bits
        torch.testing.assert_close(resumed[name], value, rtol=1e-2, atol=1e-3)


def test_a_bfloat16_model_keeps_float32_heads_that_learn() -> None:
    from tests.vmoer.test_training_stages import TRAIN, VALIDATION

    assert pick_dtype(pick_device("cuda"), 10**9) == torch.bfloat16
    model = tiny_model().to("cuda", torch.bfloat16)
    with vmoer.bayesianize(model, "fcvr", samples=4) as handle:
        assert {parameter.dtype for parameter in handle.routers.parameters()} == {torch.float32}
        config = TrainingConfig(epochs=2, batch_size=4, learning_rate=0.02, evaluate_every=2)
        result = train(handle, TRAIN, VALIDATION, config)
        assert {parameter.dtype for parameter in handle.routers.parameters()} == {torch.float32}
        assert {parameter.device.type for parameter in handle.routers.parameters()} == {"cuda"}
    assert np.isfinite(result.best_validation_nll)


def test_global_generators_of_the_gpu_are_left_alone() -> None:
    model = tiny_model().cuda()
    before = torch.cuda.get_rng_state()
    with vmoer.bayesianize(model, "mcdr", samples=4):
        trace_of(model, there(tiny_batch()))
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_the_memory_of_a_pass_is_what_the_allocator_saw() -> None:
    model = tiny_model(hidden_size=256).cuda()
    batch = there(tiny_batch(lengths=(512,) * 16))
    with torch.inference_mode():
        model(**batch, logits_to_keep=1)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        model(**batch, logits_to_keep=1)
        torch.cuda.synchronize()
        seen = torch.cuda.max_memory_allocated() - base
        counted = peak_bytes(model, batch)
    assert 0.5 < counted / seen < 2.0, f"{counted} bytes counted, {seen} allocated"


@pytest.mark.slow
def test_an_experiment_on_the_gpu_answers_like_one_on_the_cpu(tmp_path: Path) -> None:
    """The whole way: questions, traces, answers, metrics, in a worker's process of its own."""
    import os
    import subprocess
    import sys

    import yaml

    from store.reader import open_store
    from tests.pipelines.support import SPEC

    metrics = {}
    for device in ("cpu", "cuda"):
        home, file = tmp_path / device, tmp_path / f"{device}.yaml"
        file.write_text(yaml.safe_dump({**SPEC, "dtype": "float32"}), encoding="utf-8")
        environment = {**os.environ, "VMOER_HOME": str(home)}
        command = [sys.executable, "-m", "pipelines", "run", str(file), "--device", device]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        with open_store(home) as store:
            frame = store.query("SELECT run_id, dataset, metric, score, position_rule, value FROM metrics ORDER BY ALL")
            cards = store.query("SELECT device FROM runs")
        assert cards["device"].str.startswith(device).all()
        metrics[device] = frame[frame["metric"].isin(["accuracy", "nll", "ece", "brier"])].reset_index(drop=True)
    assert len(metrics["cpu"]) == len(metrics["cuda"]) > 0, json.dumps({k: len(v) for k, v in metrics.items()})
    keys = ["run_id", "dataset", "metric", "score"]
    assert metrics["cpu"][keys].equals(metrics["cuda"][keys])
    np.testing.assert_allclose(metrics["cuda"]["value"], metrics["cpu"]["value"], atol=5e-3)
