"""The in-router expectation without sampling, against many samples; and what it refuses."""

import pytest
import torch

from vmoer.attach import bayesianize
from vmoer.errors import VmoerError
from vmoer.routers import routers
from vmoer.routers.expected_softmax import expected_softmax
from vmoer.testing import tiny_batch, tiny_model

SAMPLES = 8000
#: mean total variation distance from the sampled expectation that docs/methods.md states, by method
STATED = {"mfvr": 0.005, "fcvr": 0.02, "fcvr-lowrank": 0.02, "swagr": 0.005, "laplace": 0.005, "der": 1e-5}


def total_variation(first, second):
    return float((first - second).abs().sum(-1).mean()) / 2


def sampled(mean, std, factor, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(mean)
    for _ in range(SAMPLES // 500):
        draws = mean + std * torch.randn(500, *mean.shape, generator=generator)
        if factor is not None:
            draws = draws + torch.einsum(
                "ter,str->ste", factor, torch.randn(500, *factor[:, 0].shape, generator=generator)
            )
        total += torch.softmax(draws, -1).sum(0)
    return total / SAMPLES


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("experts", [2, 6])
def test_independent_logits_are_exact_up_to_quadrature(experts, spread):
    generator = torch.Generator().manual_seed(experts)
    mean = 1.7 * torch.randn(40, experts, generator=generator)
    std = 1.7 * spread * (0.5 + torch.rand(40, experts, generator=generator))
    expected = sampled(mean, std, None)
    found = expected_softmax(mean, std.square())
    assert total_variation(found, expected) < (0.006 if spread < 2.0 else 0.01)  # mostly the samples' own error
    if spread >= 0.5:
        assert total_variation(found, expected) < 0.3 * total_variation(torch.softmax(mean, -1), expected)


@pytest.mark.parametrize("rank", [2, 6])
def test_correlations_bring_it_nearer(rank):
    generator = torch.Generator().manual_seed(rank)
    mean = 1.7 * torch.randn(40, 6, generator=generator)
    factor = 0.85 * torch.randn(40, 6, rank, generator=generator) / rank**0.5
    expected = sampled(mean, torch.zeros_like(mean), factor)
    found = expected_softmax(mean, torch.zeros_like(mean), factor)
    without = expected_softmax(mean, factor.square().sum(-1))
    assert total_variation(found, expected) < 0.02
    assert total_variation(found, expected) < 0.6 * total_variation(without, expected)


def test_without_variance_it_is_the_softmax():
    mean = 3.0 * torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        expected_softmax(mean, torch.zeros_like(mean)), torch.softmax(mean, -1), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("method", sorted(STATED))
def test_methods_meet_the_stated_distance(method):
    """Every method's own posterior (moved off its start), against its own samples."""
    model = tiny_model(num_hidden_layers=1)
    generator = torch.Generator().manual_seed(1)
    spread = {"init_std": 1.0} if method == "der" else {"prior_std": 1.0}
    with bayesianize(model, method, **spread) as handle, torch.no_grad():
        head = handle.head(0)
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        seen = []
        with handle.tap.listening(lambda _site, decision, frame: seen.append((decision.posterior, frame))):
            model(**tiny_batch((12, 12)))
        posterior, frame = seen[0]
        noise = handle.tap.noise(handle.sites[0], frame, handle.tap.mode)
        expected = torch.softmax(posterior.draw(posterior.support or SAMPLES, noise), -1).mean(0)
        assert total_variation(posterior.expectation(), expected) < STATED[method]
        assert total_variation(torch.softmax(posterior.mean, -1), expected) > STATED[method], "there must be spread"


@pytest.mark.parametrize("method", [name for name in routers.names() if routers.get(name).closed_form])
def test_without_noise_the_closed_form_is_the_native_router(method):
    model = tiny_model(num_hidden_layers=2)
    with torch.no_grad():
        expected = model(**tiny_batch()).logits
        with bayesianize(model, method, estimator="closed-form") as handle:
            if method != "deterministic":
                assert not torch.equal(model(**tiny_batch()).logits, expected)
            handle.scale_noise(0.0)
            assert torch.equal(model(**tiny_batch()).logits, expected)


def test_the_closed_form_needs_no_seed_and_little_memory(monkeypatch):
    model = tiny_model(num_hidden_layers=2)
    outputs = []
    with torch.no_grad():
        for seed, budget in ((0, 4_000_000), (1, 1)):
            monkeypatch.setattr("vmoer.forward.decision.DRAW_BUDGET", budget)
            with bayesianize(model, "fcvr", estimator="closed-form", seed=0) as handle:
                handle.seed = seed
                outputs.append(model(**tiny_batch()).logits)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["temperature", "mcdr", "vtsr"])
def test_methods_without_a_closed_form_are_refused(method):
    with pytest.raises(
        VmoerError, match=f"Method '{method}' has no closed form to average in; use in-router or predictive"
    ):
        bayesianize(tiny_model(), method, estimator="closed-form")
