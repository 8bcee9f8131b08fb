"""The engine on a small device: memory is probed where it can be, batches are halved where it runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.errors import JobError
from pipelines.experiment.batches import Work
from pipelines.model import resident as models
from pipelines.preparation.setup import prepare_experiment
from pipelines.session import scoring
from pipelines.session.inputs import Inputs
from pipelines.session.scoring import token_budget
from pipelines.session.session import Session
from pipelines.spec.runs import expand
from pipelines.stages import evaluate, susceptibility, trace
from pipelines.worker.foreground import compute
from tests.pipelines.support import settings, small_spec
from vmoer.errors import VmoerError

SPEC = small_spec(batch_tokens=512, noise={"limit": 12, "gammas": [0.02]})


def session(home: Path, notes: list[str]) -> Session:
    made = Session(Inputs(SPEC, [], settings(home)), note=notes.append)
    prepare_experiment(made)
    return made


@pytest.fixture
def limited(tmp_path: Path) -> Any:
    """A session whose model runs out of memory in forward passes of more than 200 tokens; and what it notes."""
    notes: list[str] = []
    made = session(tmp_path, notes)

    def refuse(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > 200:
            raise torch.OutOfMemoryError

    made.apply(expand(SPEC)[-1])  # calibrating routers is done in batches of the spec's size
    hook = made.resident.model.register_forward_pre_hook(refuse, with_kwargs=True)
    yield made, notes
    hook.remove()


def rows(columns: Any) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Gates and entropy of every decision by what identifies it."""
    keys = zip(columns["example_id"], columns["position"], columns["layer"], strict=True)
    values = zip(map(tuple, columns["expert_index"]), columns["gate_weight"], columns["routing_entropy"], strict=True)
    return dict(zip(keys, values, strict=True))


def test_a_trace_is_complete_and_the_log_says_that_batches_were_halved(tmp_path: Path, limited: Any) -> None:
    made, notes = limited
    run = expand(SPEC)[0]
    (batch, *_) = trace.plan(made, run)
    found = rows(trace.compute(made, run, batch)["routing"])
    assert notes[0] == "out of memory: forward passes hold 118 tokens from now on instead of 512"
    assert token_budget(made).tokens < 512
    made.resident.model._forward_pre_hooks.clear()
    undisturbed = rows(trace.compute(session(tmp_path, []), run, batch)["routing"])
    assert found.keys() == undisturbed.keys()
    for key, (experts, gates, entropy) in undisturbed.items():
        assert found[key][0] == experts
        np.testing.assert_allclose(found[key][1], gates, atol=1e-5)
        np.testing.assert_allclose(found[key][2], entropy, atol=1e-5)


def test_answers_are_complete_when_memory_runs_out(tmp_path: Path, limited: Any) -> None:
    made, notes = limited
    run = expand(SPEC)[-1]
    (batch, *_) = evaluate.plan(made, run)
    found = evaluate.compute(made, run, batch)["predictions"]
    assert notes
    made.resident.model._forward_pre_hooks.clear()
    undisturbed = evaluate.compute(session(tmp_path, []), run, batch)["predictions"]
    assert found["example_id"] == undisturbed["example_id"]
    for one, other in zip(found["probs"], undisturbed["probs"], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_step_that_cannot_be_halved_ends_with_a_sentence(tmp_path: Path, limited: Any) -> None:
    made, _ = limited
    run = expand(SPEC)[0]
    (batch, *_) = susceptibility.plan(made, run)
    work = Work(made, lambda event, **fields: None)
    with pytest.raises(VmoerError, match="stage susceptibility ran out of memory: lower `batch_tokens`"):
        work.ensure(run, "susceptibility", batch)


def test_a_job_whose_model_finds_no_memory_ends_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, **_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(models, "_LOADED", {})
    monkeypatch.setattr(models, "load", full)
    with pytest.raises(
        JobError, match="stage prepare ran out of memory: lower `batch_tokens` or `micro_batch`"
    ) as found:
        compute(SPEC, [], settings(tmp_path), quiet=True)
    assert "end other programs" in str(found.value)


class Measured:
    """A device of ``size`` bytes of which each token of a forward pass takes ten; no test machine has a GPU."""

    def __init__(self, model: Any, size: int) -> None:
        self.size = size
        self.largest = 0
        self.hook = model.register_forward_pre_hook(self.see, with_kwargs=True)

    def see(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.largest = max(self.largest, 10 * kwargs["input_ids"].numel())

    def limit(self) -> int:
        return self.size

    def used(self) -> int:
        return 0

    def peak(self, work: Any) -> int:
        self.largest = 0
        work()
        return self.largest


@pytest.mark.parametrize(("size", "most"), [(6_000, 512), (10**9, 4 * 512)])
def test_a_probe_with_the_longest_question_sets_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, most: int
) -> None:
    notes: list[str] = []
    made = session(tmp_path, notes)
    memory = Measured(made.resident.model, size)
    monkeypatch.setattr(scoring, "device_memory", lambda device: memory)
    budget = token_budget(made)
    memory.hook.remove()
    assert 64 <= budget.tokens <= most
    assert memory.largest <= size
    assert (budget.tokens == 4 * 512) == (size == 10**9)
    assert notes == [f"forward passes hold {budget.tokens} tokens, as the memory of cpu was found to allow"]
    assert token_budget(made) is budget
