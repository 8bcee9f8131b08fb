"""A temperature per token: consistent sampling, a gradient that points the right way, and T that stays in range."""

import itertools

import pytest
import torch
from torch.distributions import LogNormal, kl_divergence

from vmoer.attach import bayesianize
from vmoer.rng import TokenNoise, mix
from vmoer.routers import RouterShape, routers
from vmoer.testing import tiny_batch, tiny_model
from vmoer.training.config import Example, TrainingConfig
from vmoer.training.loop import train

SHAPE = RouterShape(hidden_size=8, n_experts=4, top_k=2)


def head_of(shape=SHAPE, **options):
    return routers.get("vtsr")(shape, generator=torch.Generator().manual_seed(0), **options)


def noise(tokens):
    return TokenNoise(mix(torch.arange(tokens, dtype=torch.int64)))


def with_temperature(head, value):
    """The head with log(T/T₀) = ``value`` for every token (before the bound, which is the identity near 0)."""
    with torch.no_grad():
        head.ratio_head.weight.zero_()
        head.ratio_head.bias.fill_(value)
    return head


def test_kl_is_that_of_log_normals_of_equal_width():
    head = with_temperature(head_of(temperature=0.7, prior_std=0.4), 0.3)
    posterior = head.posterior(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 4))
    medians = posterior.temperature.log()
    expected = kl_divergence(
        LogNormal(medians, torch.tensor(0.4)), LogNormal(torch.tensor(0.7).log(), torch.tensor(0.4))
    )
    torch.testing.assert_close(posterior.kl(), expected)
    assert float(posterior.kl()[0].detach()) == pytest.approx(0.3**2 / (2 * 0.16), rel=1e-2)


def test_selection_is_sequential_sampling_at_the_tokens_own_temperature():
    tokens, logits = 40_000, torch.tensor([[1.2, 0.3, -0.4, 0.0]])
    head = with_temperature(head_of(), 0.5)
    posterior = head.posterior(torch.zeros(tokens, 8), logits.expand(tokens, -1))
    temperature = float(posterior.temperature[0].detach())
    scores = posterior.draw(1, noise(tokens))[0]
    first, second = scores.topk(2, dim=-1).indices.unbind(-1)
    p = torch.softmax(logits[0] / temperature, -1).tolist()
    for i, j in itertools.permutations(range(4), 2):
        expected = p[i] * p[j] / (1 - p[i])
        found = float(((first == i) & (second == j)).double().mean())
        assert abs(found - expected) < 5 * (expected / tokens) ** 0.5, (i, j)
    torch.testing.assert_close(posterior.gate_logits, logits.expand(tokens, -1) / temperature)


def test_no_temperature_is_the_native_router():
    model = tiny_model(num_hidden_layers=2)
    batch = tiny_batch((6, 6))
    with torch.no_grad():
        native = model(**batch).logits
        with bayesianize(model, "vtsr", temperature=1e-12) as handle:
            for layer in handle.layers:
                handle.head(layer).ratio_head.weight.data.zero_()  # T = T₀ to the bit
            assert torch.equal(model(**batch).logits, native)
        with bayesianize(model, "vtsr", temperature=1.0):
            assert not torch.equal(model(**batch).logits, native)


def test_the_straight_through_factor_changes_no_output():
    model = tiny_model(num_hidden_layers=2)
    batch = tiny_batch()
    with bayesianize(model, "vtsr"):
        with torch.no_grad():
            plain = model(**batch).logits
        learning = model(**batch).logits
    assert learning.requires_grad
    assert torch.equal(plain, learning.detach())


@pytest.mark.parametrize(("harmful", "direction"), [(True, "down"), (False, "up")])
def test_the_selection_teaches_the_temperature(harmful, direction):
    """The loss is 1 per gate of the unlikely experts: T must fall when they do harm and rise when they help.

    The gates are cut off (only their straight-through factors count), so this is the selection's gradient alone; its
    sign is compared with the exact derivative, by enumeration, of the expected number of unlikely experts chosen.
    """
    tokens, logits = 4000, torch.tensor([[2.0, 1.5, -0.5, -1.0]])
    shift = torch.zeros((), requires_grad=True)
    posterior = head_of().posterior(torch.zeros(tokens, 8), logits.expand(tokens, -1))
    posterior.temperature = shift.exp().expand(tokens)
    scores = posterior.draw(1, noise(tokens))[0]
    index = scores.topk(2, dim=-1).indices
    inclusion = posterior.inclusion(scores).gather(-1, index)
    factor = 1.0 + (inclusion - inclusion.detach())
    loss = (factor * (index >= 2)).sum(-1).mean() * (1.0 if harmful else -1.0)
    loss.backward()

    def expected_unlikely(log_temperature):
        p = torch.softmax(logits[0].double() / log_temperature.exp(), -1)
        pairs = itertools.permutations(range(4), 2)
        return sum(p[i] * p[j] / (1 - p[i]) * ((i >= 2) + (j >= 2)) for i, j in pairs)

    at = torch.zeros((), dtype=torch.float64, requires_grad=True)
    exact = torch.autograd.grad(expected_unlikely(at), at)[0] * (1.0 if harmful else -1.0)
    assert (float(shift.grad) > 0) == (direction == "down")
    assert 0.1 < float(shift.grad) / float(exact) < 3.0, "a step of the right size, if not unbiased"


def test_every_expert_chosen_leaves_nothing_to_select():
    head = head_of(RouterShape(8, 4, 4))
    posterior = head.posterior(torch.zeros(3, 8), torch.zeros(3, 4))
    assert posterior.inclusion(posterior.draw(1, noise(3))[0]) is None


def questions(count, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, 97, (6,), generator=generator).tolist() for _ in range(count)]
    return [Example(row[:4], row[4:]) for row in rows]


@pytest.mark.parametrize("seed", range(5))
def test_temperature_neither_collapses_nor_explodes(seed):
    """Short training on noise answers, five seeds; without the penalty T leaves this range (0.50 to 2.36 were seen)."""
    model = tiny_model(num_hidden_layers=2, seed=seed)
    config = TrainingConfig(
        epochs=8,
        batch_size=8,
        learning_rate=0.02,
        beta=0.1,
        evaluate_every=100,
        patience=99,
        data_seed=seed,
        sampling_seed=seed,
    )
    with bayesianize(model, "vtsr", seed=seed) as handle:
        log = train(handle, questions(32, seed), questions(4, 100 + seed), config).log
    seen = [value for _, _, quantity, value in log if quantity == "temperature"]
    assert len(seen) == 2 * 32
    assert min(seen) > 0.7, seen
    assert max(seen) < 1.3, seen
    assert max(abs(value - 1.0) for value in seen) > 0.01, "T must be free to move"
