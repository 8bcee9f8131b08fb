"""Running out of memory costs time, never the computation: the budget is halved and the results stay the same."""

import numpy as np
import pytest
import torch

import vmoer
from vmoer.errors import VmoerError
from vmoer.scoring.options import score_options
from vmoer.scoring.token_budget import TokenBudget, device_memory, exhausted, probe
from vmoer.testing import tiny_model


class Words:
    """A tokenizer of one token per character, so that lengths are plain to see."""

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [3 + ord(letter) % 60 for letter in text]}


@pytest.fixture
def model():
    return tiny_model(vocab_size=64)


def limit_memory(model, tokens):
    """Let every forward pass of more than ``tokens`` tokens, padding included, run out of memory; counts failures."""
    failed = []

    def refuse(module, args, kwargs):
        size = kwargs["input_ids"].numel()
        if size > tokens:
            failed.append(size)
            raise torch.OutOfMemoryError(f"{size} tokens")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    return failed


def test_passes_do_every_item_once_in_order_in_parts_that_fit():
    told = []
    budget = TokenBudget(64, tell=told.append)

    def work(part):
        if len(part) > 3:
            raise torch.OutOfMemoryError
        return sum(part)

    items = list(range(10))
    found = list(budget.passes(items, len, work))
    assert [item for part, _ in found for item in part] == items
    assert all(result == sum(part) for part, result in found)
    assert max(len(part) for part, _ in found) <= 3
    assert budget.tokens < 64
    assert told[0] == "out of memory: forward passes hold 5 tokens from now on instead of 64"


def test_passes_grow_again_when_other_programs_give_memory_back():
    told, room = [], [3]
    budget = TokenBudget(16, tell=told.append)

    def work(part):
        if len(part) > room[0]:
            raise torch.OutOfMemoryError
        return len(part)

    def sizes(passes):
        found = []
        while len(found) < passes:
            found += [size for _, size in budget.passes(range(budget.tokens), len, work)]
        return found

    assert max(sizes(50)) == 2, "16 and 8 and 4 do not fit"
    assert len(told) == 3
    room[0] = 100
    assert sizes(10_000)[-1] == budget.tokens == 16, "never more than at the start"
    assert told[3] == "memory suffices: forward passes hold 4 tokens from now on instead of 2"


def test_a_memory_that_stays_small_is_left_in_peace():
    failed = []
    budget = TokenBudget(16)

    def work(part):
        if len(part) > 8:
            failed.append(len(part))
            raise torch.OutOfMemoryError

    for _ in range(10_000):
        list(budget.passes(range(budget.tokens), len, work))
    assert 3 < len(failed) < 10


def test_one_item_that_does_not_fit_is_refused_in_a_sentence():
    def work(part):
        raise torch.OutOfMemoryError

    with pytest.raises(VmoerError, match="9 tokens do not fit into the memory of this device"):
        list(TokenBudget(64).passes(["a question"], lambda part: 9, work))


def test_other_errors_are_not_taken_for_a_full_memory():
    def work(part):
        raise RuntimeError("out of ideas")

    with pytest.raises(RuntimeError, match="out of ideas"):
        list(TokenBudget(64).passes([1, 2], len, work))


@pytest.mark.parametrize("samples", [1, 6])
def test_scores_stay_the_same_when_memory_runs_out(model, samples):
    prompts = [f"question number {number}" + " and more" * (number % 3) for number in range(8)]
    options = [[" yes", " no", " maybe"]] * 8
    with vmoer.bayesianize(model, "mfvr", estimator="predictive", samples=6, seed=1) as handle:
        asked = {"handle": handle if samples > 1 else None, "samples": samples}
        undisturbed = score_options(model, Words(), prompts, options, batch_tokens=4096, **asked)
        budget = TokenBudget(4096)
        failed = limit_memory(model, 100)
        halved = score_options(model, Words(), prompts, options, batch_tokens=budget, **asked)
    assert failed
    assert budget.tokens < 4096
    for one, other in zip(undisturbed, halved, strict=True):
        np.testing.assert_allclose(other.log_likelihood, one.log_likelihood, rtol=0, atol=2e-5)


def test_after_a_halving_later_passes_are_small_from_the_start(model):
    budget = TokenBudget(4096)
    failed = limit_memory(model, 200)
    prompts = ["the same prompt each time"] * 64
    score_options(model, Words(), prompts, [[" a", " b"]] * 64, batch_tokens=budget)
    first = len(failed)
    score_options(model, Words(), prompts, [[" a", " b"]] * 64, batch_tokens=budget)
    assert first > 0
    assert len(failed) == first


@pytest.mark.parametrize("place", ["before the first router", "after the last router"])
def test_an_attempt_that_fails_leaves_nothing_in_the_trace(model, place):
    ids = torch.arange(3, 15).reshape(2, 6)
    with torch.inference_mode(), vmoer.record(model) as recorder:
        with recorder.attempt():
            model(input_ids=ids)
        module = model.model.embed_tokens if place.startswith("before") else model.lm_head

        def fail(*_):
            raise torch.OutOfMemoryError

        hook = module.register_forward_pre_hook(fail)
        with pytest.raises(torch.OutOfMemoryError), recorder.attempt():
            model(input_ids=ids + 20)
        hook.remove()
        with recorder.attempt():
            model(input_ids=ids + 20)
    trace = recorder.trace
    assert trace.example.tolist() == np.repeat([0, 1, 2, 3], 6).tolist()
    assert trace.token_id.tolist() == [*range(3, 15), *range(23, 35)]


class Measured:
    """A device of ``size`` bytes on which a token takes ten; an imitation, as no test machine has a GPU."""

    def __init__(self, size, base=0):
        self.size, self.base, self.now = size, base, 0
        self.tried = []

    def limit(self):
        return self.size

    def used(self):
        return self.base

    def peak(self, work):
        work()
        return self.base + 10 * self.tried[-1]

    def work(self, tokens):
        self.tried.append(tokens)
        if self.base + 10 * tokens > self.size:
            raise torch.OutOfMemoryError


@pytest.mark.parametrize(
    ("size", "base", "found"),
    [(60_000, 0, 4096), (30_000, 0, 2048), (30_000, 8_000, 1024), (1_000, 0, 256), (10**9, 0, 5000)],
)
def test_a_probe_finds_the_largest_size_that_leaves_a_fifth_free(size, base, found):
    memory = Measured(size, base)
    assert probe(memory.work, 256, 5000, memory) == found
    beyond = [tokens for tokens in memory.tried if base + 10 * tokens > 0.8 * size and tokens > 256]
    assert not beyond, "a size that is expected not to fit is not tried"


def test_a_probe_stops_where_memory_runs_out_earlier_than_expected():
    memory = Measured(10**9)

    def work(tokens):
        memory.work(tokens)
        if tokens > 1000:
            raise torch.OutOfMemoryError

    assert probe(work, 256, 5000, memory) == 512


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("MPS backend out of memory (MPS allocated: 6.04 GB)"),
    ],
)
def test_a_full_device_is_recognised_by_whatever_error_says_it(error):
    assert "the model ran out of memory: lower `batch_tokens`" in str(exhausted("the model", error))


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), OSError("out of memory")])
def test_other_faults_of_a_device_are_not_a_full_memory(error):
    assert exhausted("the model", error) is None


def test_only_a_gpu_has_memory_of_its_own_to_measure():
    assert device_memory(torch.device("cpu")) is None
