"""Attributions: exact where the answer is known, complete where promised, blind to padding, quiet about randomness."""

import numpy as np
import pytest
import torch

from vmoer.attach import bayesianize
from vmoer.errors import LayerSelectionError, UnknownNameError, VmoerError
from vmoer.measure.attribution import Attribution, attribute, explain, routing_target
from vmoer.testing import tiny_batch, tiny_model

WEIGHTS = torch.linspace(-1.0, 2.0, 50, dtype=torch.float64)
IDS = torch.tensor([7, 3, 41, 3, 19])


def additive(ids):
    """Each token adds its own weight, whatever the others are."""
    return WEIGHTS[ids].sum(-1)


def interacting(ids):
    """Tokens 0 and 1 matter only together; the others not at all."""
    return ((ids[:, 0] == 7) & (ids[:, 1] == 3)).double()


def prompt(length, seed=0):
    """Random tokens ``[length]``."""
    return tiny_batch((length,), seed=seed)["input_ids"][0]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def handle(model):
    handle = bayesianize(model, "fcvr", samples=4)
    yield handle
    handle.restore()


@pytest.mark.parametrize("algorithm", ["ablation", "shapley"])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_an_additive_target_is_explained_exactly(algorithm, rows):
    found = explain(additive, IDS, baseline=5, algorithm=algorithm, rows=rows, permutations=4)
    assert np.allclose(found.values, (WEIGHTS[IDS] - WEIGHTS[5]).numpy(), atol=1e-6)
    assert found.complete
    assert found.delta == pytest.approx(0, abs=1e-6)


def test_an_interaction_is_shared_by_shapley_and_counted_twice_by_ablation():
    alone = explain(interacting, IDS, baseline=5)
    assert alone.values.tolist() == [1, 1, 0, 0, 0]
    assert not alone.complete
    assert alone.incomplete == pytest.approx(1.0)
    shared = explain(interacting, IDS, baseline=5, algorithm="shapley", permutations=400)
    assert shared.complete
    assert shared.values == pytest.approx([0.5, 0.5, 0, 0, 0], abs=4 * shared.spread.max())
    assert 0.02 < shared.spread[0] < 0.03  # a fair coin thrown 400 times
    assert shared.values.sum() == pytest.approx(1.0, abs=1e-6)


def test_shapley_orders_follow_the_seed_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first, again, other = (
        explain(interacting, IDS, baseline=5, algorithm="shapley", permutations=7, seed=seed).values
        for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()
    assert (torch.random.get_rng_state() == before).all()


def test_a_baseline_that_changes_nothing_explains_nothing():
    found = explain(additive, torch.tensor([5, 5]), baseline=5)
    assert found.values.tolist() == [0, 0]
    assert found.incomplete == 0
    spurious = Attribution("ablation", np.array([0.5, 0.0]), np.full(2, np.nan), 1.0, 1.0, 4)
    assert spurious.incomplete == float("inf")
    assert not spurious.complete


@pytest.mark.parametrize("quantity", ["logit_variance", "routing_entropy", "expert_logit"])
@pytest.mark.parametrize("estimator", ["in-router", "predictive"])
def test_shapley_of_a_router_quantity_is_complete(model, quantity, estimator):
    with bayesianize(model, "fcvr", samples=4, estimator=estimator):
        ids = prompt(6)
        found = attribute(model, ids, layer=2, quantity=quantity, algorithm="shapley", permutations=3)
    assert found.incomplete < 1e-3
    assert found.values.shape == (6,)
    assert np.abs(found.values).max() > 0


def test_ablation_equals_replacing_tokens_by_hand(model, handle):
    ids = prompt(5)
    target = routing_target(model, 1, "logit_variance", of=ids)
    found = attribute(model, ids, layer=1, quantity="logit_variance", baseline=3)
    for place in range(5):
        changed = ids.clone()
        changed[place] = 3
        assert found.values[place] == pytest.approx(float(target(ids[None]) - target(changed[None])), abs=1e-6)
    assert found.rows == 5 + 2 + 1  # captum asks for the prompt once more


def test_the_target_is_no_noise(model):
    """Equal prompts give equal values whatever shares their batch; draws do not depend on what the prompt says."""
    with bayesianize(model, "fcvr", samples=2) as handle:
        ids = prompt(6)
        target = routing_target(model, 2, "routing_entropy", of=ids)
        other = prompt(6, seed=5)
        alone = target(ids[None])
        assert torch.allclose(target(torch.stack([other, ids]))[1:], alone, atol=1e-6)
        handle.scale_noise(0.0)
        assert not torch.allclose(target(ids[None]), alone, atol=1e-4), "the samples do enter"


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_part_of_the_prompt(model, handle, side):
    ids = prompt(5)
    pad = torch.zeros(3, dtype=torch.long)
    padded, mask = torch.cat([pad, ids]), torch.cat([pad, torch.ones(5, dtype=torch.long)])
    if side == "right":
        padded, mask = torch.cat([ids, pad]), mask.flip(0)
    plain = attribute(model, ids, layer=2, position=3)
    same = attribute(model, padded[None], layer=2, position=3, attention_mask=mask[None])
    assert (plain.values == same.values).all()
    assert len(plain.values) == 4, "later tokens cannot matter"


def test_native_routing_has_entropy_but_no_variance(model):
    found = attribute(model, prompt(5), layer=0, quantity="routing_entropy")
    assert np.abs(found.values).max() > 0
    with pytest.raises(VmoerError, match="closed form"):
        attribute(model, prompt(5), layer=0, quantity="logit_variance")


def test_check_can_stop_it(model, handle):
    class Stop(Exception):
        pass

    seen = []

    def check(asked):
        seen.append(asked)
        if asked >= 10:
            raise Stop

    with pytest.raises(Stop):
        attribute(model, prompt(6), layer=0, algorithm="shapley", batch_tokens=12, check=check)
    assert seen[0] == 0
    assert seen[-1] >= 10
    assert handle.tap.sinks == []
    assert not handle.tap.mode.common


@pytest.mark.parametrize(
    ("wrong", "kind", "sentence"),
    [
        ({"layer": 9}, LayerSelectionError, "not an MoE layer"),
        ({"layer": 0, "quantity": "variance"}, UnknownNameError, "logit_variance"),
        ({"layer": 0, "algorithm": "shaply"}, UnknownNameError, "shapley"),
        ({"layer": 0, "position": 9}, VmoerError, "5 tokens"),
        ({"layer": 0, "quantity": "expert_logit", "expert": 99}, VmoerError, "does not exist"),
        ({"layer": 0, "algorithm": "shapley", "permutations": 1}, VmoerError, "At least 2"),
    ],
)
def test_wrong_questions_are_refused_in_one_sentence(model, handle, wrong, kind, sentence):
    with pytest.raises(kind, match=sentence):
        attribute(model, prompt(5), **wrong)
