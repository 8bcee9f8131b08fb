"""Routing samples of one prompt: counts add up, averages are averages, and nothing depends on how they are batched."""

import numpy as np
import pytest
import torch

from vmoer.attach import bayesianize
from vmoer.errors import VmoerError
from vmoer.forward.modes import evaluation
from vmoer.forward.recorder import record
from vmoer.scoring.samples import sample_routing
from vmoer.testing import tiny_batch, tiny_model


def prompt(length, seed=0):
    """Random tokens ``[length]``."""
    return tiny_batch((length,), seed=seed)["input_ids"][0]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_without_a_posterior_there_is_one_answer(model):
    ids = prompt(7)
    found = sample_routing(model, ids, last=3)
    with evaluation(model), torch.inference_mode(), record(model) as recorder:
        expected = model(input_ids=ids[None]).logits[0, -3:].softmax(-1).numpy()
    trace = recorder.trace
    assert np.allclose(found.probability, expected, atol=1e-6)
    assert np.allclose(found.mutual_information, 0, atol=1e-6)
    for token in range(7):
        for number in range(len(trace.layers)):
            chosen = np.flatnonzero(found.chosen[token, number])
            assert sorted(chosen) == sorted(trace.expert_index[token, number])


def test_counts_and_averages_add_up(model):
    ids = prompt(6)
    with bayesianize(model, "mfvr", layers=[1, 2]) as handle:
        found = sample_routing(model, ids, handle=handle, samples=9, last=2)
    assert found.chosen.shape == (6, 3, 8)
    assert (found.chosen.sum(-1) == 9 * 2).all()
    assert set(np.unique(found.chosen[:, 0])) <= {0, 9}, "a layer without a posterior chooses the same every time"
    assert len(np.unique(found.chosen[:, 1:])) > 2
    assert np.allclose(found.probability.sum(-1), 1, atol=1e-5)
    assert np.allclose(found.first.mean(0), found.probability[0], atol=1e-6)
    entropy = -(found.first * np.log(found.first)).sum(-1).mean()
    assert found.expected_entropy[0] == pytest.approx(entropy, rel=1e-5)
    assert (found.mutual_information > 0).all()


def test_batching_and_the_global_generator_do_not_matter(model):
    ids = prompt(6)
    before = torch.random.get_rng_state()
    with bayesianize(model, "fcvr", seed=3) as handle:
        wide, narrow = (
            sample_routing(model, ids, handle=handle, samples=7, batch_tokens=budget) for budget in (4096, 12)
        )
    assert (wide.chosen == narrow.chosen).all()
    assert np.allclose(wide.first, narrow.first, atol=1e-6)
    assert (torch.random.get_rng_state() == before).all()


def test_it_can_be_stopped_and_refuses_what_it_cannot_do(model):
    class Stop(Exception):
        pass

    def stop():
        raise Stop

    with bayesianize(model, "mfvr") as handle, pytest.raises(Stop):
        sample_routing(model, prompt(4), handle=handle, samples=3, check=stop)
    with pytest.raises(VmoerError, match="needs Bayesian routers"):
        sample_routing(model, prompt(4), samples=2)
    with pytest.raises(VmoerError, match="last 5 of 4"):
        sample_routing(model, prompt(4), last=5)
