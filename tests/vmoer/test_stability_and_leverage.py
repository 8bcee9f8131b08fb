"""Susceptibility and leverage: limits that must hold exactly, and interventions that leave the model as it was."""

import numpy as np
import pytest
import torch

from vmoer.attach import bayesianize, choose_layers
from vmoer.errors import LayerSelectionError, UnsupportedModelError, VmoerError
from vmoer.forward.hooks import tap_of
from vmoer.forward.recorder import record
from vmoer.measure import leverage, susceptibility
from vmoer.scoring.options import OptionScores
from vmoer.testing import LENGTHS, tiny_batch, tiny_model, tiny_row

MODES = ["router", "propagated"]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def batches():
    return [tiny_batch((30, 20, 25), seed=1), tiny_batch((28, 22), seed=2)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", [None, "fcvr", "temperature"])
def test_no_noise_is_perfect_stability(model, batches, mode, method):
    """Bayesian routers keep their own draws, so that only the input noise could make a difference."""
    handle = bayesianize(model, method, samples=4) if method else None
    found = susceptibility.measure(model, batches, gammas=(0.0,), mode=mode)
    if handle is not None:
        handle.restore()
    assert (found.token_jaccard == 1).all()


def test_a_second_draw_moves_the_choice_of_bayesian_routers_only(model, batches):
    """Without input noise the deterministic sets are the same; two draws at a high temperature agree by chance."""
    plain = susceptibility.measure(model, batches, gammas=(0.0, 0.05), mode="redrawn")
    assert (plain.token_jaccard[0] == 1).all()
    router = susceptibility.measure(model, batches, gammas=(0.05,))
    assert np.array_equal(plain.token_jaccard[1], router.token_jaccard[0])
    with bayesianize(model, "temperature", temperature=1000.0, samples=1):
        drawn = susceptibility.measure(model, batches, gammas=(0.0, 0.05), mode="redrawn").jaccard.mean(1)
        shared = susceptibility.measure(model, batches, gammas=(0.05,)).jaccard.mean(1)
    assert drawn == pytest.approx(1 / 28 + 12 / 28 / 3, abs=0.06)
    assert shared[0] > 0.9
    with bayesianize(model, "fcvr", samples=2000):
        many = susceptibility.measure(model, batches, gammas=(0.0,), mode="redrawn").jaccard.mean()
    with bayesianize(model, "fcvr", samples=2):
        few = susceptibility.measure(model, batches, gammas=(0.0,), mode="redrawn").jaccard.mean()
    assert few < many


@pytest.mark.parametrize("mode", MODES)
def test_stability_falls_from_one_to_chance(model, batches, mode):
    found = susceptibility.measure(model, batches, gammas=(0.0, 0.003, 0.03, 0.3, 1e4), mode=mode)
    assert found.jaccard.shape == (5, 3)
    assert found.token_jaccard.shape == (5, 3, 125)
    mean = found.jaccard.mean(1)
    assert (np.diff(mean) < 0).all()
    # two random pairs of eight experts share two with probability 1/28, one with 12/28
    chance = 1 / 28 + 12 / 28 / 3
    assert mean[-1] == pytest.approx(chance, abs=0.08)


def test_examples_are_numbered_over_batches(model, batches):
    found = susceptibility.measure(model, batches, gammas=(0.01,))
    assert np.bincount(found.example).tolist() == [30, 20, 25, 28, 22]
    assert found.layers == [0, 1, 2]


@pytest.mark.parametrize("mode", MODES)
def test_padding_does_not_enter(model, mode):
    narrow = susceptibility.measure(model, [tiny_batch()], gammas=(0.05,), mode=mode)
    wide = susceptibility.measure(model, [tiny_batch(side="right", width=20)], gammas=(0.05,), mode=mode)
    assert narrow.token_jaccard.shape[-1] == wide.token_jaccard.shape[-1] == sum(LENGTHS)
    assert (narrow.token_jaccard != wide.token_jaccard).mean() < 0.05


def test_modes_agree_below_and_differ_above(model, batches):
    """The first router sees the same noise in both modes; the second also feels what the first did with it."""
    router, propagated = (susceptibility.measure(model, batches, gammas=(0.05,), mode=mode) for mode in MODES)
    assert np.array_equal(router.token_jaccard[:, 0], propagated.token_jaccard[:, 0])
    assert propagated.jaccard[0, 1:].mean() < router.jaccard[0, 1:].mean()


def test_noise_is_relative_to_the_routers_own_input(model):
    tap = tap_of(model)
    batch = tiny_row(0)
    norms = susceptibility.input_norms(tap, [batch, tiny_batch(width=30)])
    seen = {}
    hooks = [
        site.router.register_forward_hook(lambda _m, args, _o, layer=site.layer: seen.update({layer: args[0]}))
        for site in tap.sites
    ]
    with torch.no_grad():
        rows = [tiny_row(row) for row in (0, 0, 1, 2)]
        squares = {site.layer: 0.0 for site in tap.sites}
        for row in rows:
            model(**row)
            for layer, hidden in seen.items():
                squares[layer] += float(hidden.square().sum())
    for hook in hooks:
        hook.remove()
    for layer, total in squares.items():
        assert norms[layer] == pytest.approx((total / 22) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"mode": "sideways"}, "Unknown stability mode 'sideways'"),
        ({"gammas": (-0.1,)}, "0 or more"),
        ({"gammas": ()}, "noise levels"),
    ],
)
def test_bad_stability_arguments_are_refused(model, batches, arguments, sentence):
    with pytest.raises(VmoerError, match=sentence):
        susceptibility.measure(model, batches, **arguments)
    with pytest.raises(VmoerError, match="at least one batch"):
        susceptibility.measure(model, [])


def test_jaccard_of_small_sets():
    first = torch.tensor([[0, 1], [0, 1], [0, 1]])
    second = torch.tensor([[1, 0], [1, 2], [2, 3]])
    assert susceptibility.jaccard(first, second).tolist() == pytest.approx([1.0, 1 / 3, 0.0])


def test_random_routing_is_valid_uniform_and_gone_afterwards(model):
    batch = tiny_batch((60, 60, 60), seed=4)
    with torch.no_grad():
        before = model(**batch).logits
        with leverage.random_routing(model, [1], seed=0), record(model) as recorder:
            disturbed = model(**batch).logits
        with leverage.random_routing(model, [1], seed=0):
            assert torch.equal(model(**batch).logits, disturbed)
        with leverage.random_routing(model, [1], seed=1):
            assert not torch.equal(model(**batch).logits, disturbed)
        assert torch.equal(model(**batch).logits, before)
    trace = recorder.trace
    assert (trace.overlap[:, 0] == 2).all(), "the other layers keep their routing"
    index, weight = trace.expert_index[:, 1], trace.gate_weight[:, 1]
    assert (index[:, 0] != index[:, 1]).all(), "experts are drawn without replacement"
    np.testing.assert_allclose(weight, 0.5, rtol=1e-5)
    load = np.bincount(index.ravel(), minlength=8)
    assert load.min() > 0.5 * load.mean()
    # expected overlap of a random pair with any fixed pair out of eight is 2 · 2/8
    assert trace.overlap[:, 1].mean() == pytest.approx(0.5, abs=0.2)


def test_two_interventions_on_one_layer_are_refused(model):
    with leverage.random_routing(model, [0], 0):
        with pytest.raises(UnsupportedModelError, match="already carry an intervention"):
            leverage.random_routing(model, [0], 1).__enter__()
        with leverage.random_routing(model, [2], 1):
            pass
    assert not tap_of(model).overrides


@pytest.mark.parametrize("family", ["GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"])
def test_zero_block_removes_the_routed_experts_only(family):
    model = tiny_model(family)
    outputs = []
    hook = model.model.layers[1].block_sparse_moe.register_forward_hook(lambda _m, _a, out: outputs.append(out))
    with torch.no_grad():
        before = model(**tiny_batch()).logits
        with leverage.zero_block(model, [1]):
            without = model(**tiny_batch()).logits
        after = model(**tiny_batch()).logits
        for parameter in model.model.layers[1].block_sparse_moe.experts.parameters():
            parameter.zero_()
        expected = model(**tiny_batch()).logits
    hook.remove()
    assert torch.equal(before, after)
    assert not torch.equal(before, without)
    torch.testing.assert_close(without, expected)


def test_unknown_layers_are_refused(model):
    for intervention in (lambda: leverage.random_routing(model, [7], 0), lambda: leverage.zero_block(model, [7])):
        with pytest.raises(LayerSelectionError, match="Layer 7"):
            intervention().__enter__()


def test_leverage_counts_right_answers_and_their_nll():
    model = tiny_model()
    calls = []

    def score():
        calls.append(None)
        return [OptionScores(np.log(np.array([[0.7, 0.3]])), np.array([1, 1]))] * 2

    found = leverage.measure(model, score, [0, 1], layers=[0, 2], draws=3)
    assert found.correct.tolist() == [[1.0, 0.0]] * 3
    np.testing.assert_allclose(found.nll, [[-np.log(0.7), -np.log(0.3)]] * 3)
    assert len(calls) == 3
    for layers, intervention in (([], "random-routing"), ([0], "zero-block")):
        assert leverage.measure(model, score, [0, 1], layers, intervention, draws=3).correct.shape == (1, 2)


def test_next_token_nll_ignores_padding(model):
    batch = tiny_batch()
    expected, count = 0.0, 0
    for row in range(3):
        single = tiny_row(row)
        with torch.no_grad():
            log_p = model(**single).logits[0, :-1].log_softmax(-1)
        expected -= float(log_p.gather(-1, single["input_ids"][0, 1:, None]).sum())
        count += single["input_ids"].shape[1] - 1
    for padded in (batch, tiny_batch(side="right", width=16)):
        assert leverage.next_token_nll(model, [padded]) == pytest.approx(expected / count, rel=1e-4)


def test_measured_selections_name_layers(model, batches):
    found = susceptibility.measure(model, batches, gammas=(0.01,)).jaccard[0]
    assert choose_layers(model, "susceptible:1", batches) == [int(found.argmin())]
    rise = leverage.token_nll_rise(model, batches)
    assert choose_layers(model, "leverage:1", batches) == [int(np.argmax(rise))]
    assert len(choose_layers(model, "auto", batches)) == 1
    with bayesianize(model, "fcvr", layers="susceptible:2", samples=2, calibration=batches) as handle:
        assert len(handle.layers) == 2
