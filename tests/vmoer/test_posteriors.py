"""The mathematics of each posterior, against independent implementations."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from vmoer.architectures import architecture_of
from vmoer.attach import bayesianize, load_routers
from vmoer.errors import VmoerError
from vmoer.forward.decision import decide
from vmoer.forward.recorder import record
from vmoer.rng import TokenNoise, mix
from vmoer.routers import RouterShape, routers
from vmoer.testing import tiny_batch, tiny_model

SHAPE = RouterShape(hidden_size=16, n_experts=6, top_k=2)
TOKENS = 9
#: methods with a Gaussian posterior over logits and a prior
GAUSSIAN = ["mfvr", "fcvr", "fcvr-lowrank"]


def posterior_of(method: str, perturbed: bool = True, **options):
    """Posterior of a router moved off its initial weights, and the native logits it was given."""
    generator = torch.Generator().manual_seed(4)
    if method == "fcvr-lowrank":
        options = {"trunk_width": 4, **options}  # the default trunk is two units here
    head = routers.get(method)(SHAPE, generator=generator, logit_scale=1.7, **options)
    if perturbed:
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(TOKENS, SHAPE.hidden_size, generator=generator)
    logits = torch.randn(TOKENS, SHAPE.n_experts, generator=generator)
    with torch.no_grad():
        return head.posterior(hidden, logits), logits


def noise(tokens: int = TOKENS, seed: int = 0) -> TokenNoise:
    return TokenNoise(mix(torch.arange(tokens, dtype=torch.int64) + 1000 * seed))


def reference(method: str, posterior):
    if method == "mfvr":
        return Independent(Normal(posterior.mean, posterior.std), 1)
    if method == "fcvr-lowrank":
        dense = torch.diag_embed(posterior.std.square()) + posterior.factor @ posterior.factor.transpose(-2, -1)
        return MultivariateNormal(posterior.mean, covariance_matrix=posterior.prior_std**2 * dense)
    return MultivariateNormal(posterior.mean, scale_tril=posterior.cholesky)


@pytest.mark.parametrize("method", GAUSSIAN)
def test_kl_equals_torch_distributions(method):
    posterior, logits = posterior_of(method)
    prior_std = float(posterior.prior_std)
    assert prior_std == pytest.approx(0.5 * 1.7), "the prior is as wide as prior_std times the router's own spread"
    prior = Independent(Normal(logits, torch.full_like(logits, prior_std)), 1)
    if method != "mfvr":
        prior = MultivariateNormal(logits, prior_std**2 * torch.eye(SHAPE.n_experts))
    expected = kl_divergence(reference(method, posterior), prior)
    torch.testing.assert_close(posterior.kl(), expected, rtol=1e-4, atol=1e-4)
    assert posterior.kl().median() > 0.1, "the router was moved, so it must be away from its prior"


@pytest.mark.parametrize("method", GAUSSIAN)
def test_kl_and_its_gradient_vanish_at_the_prior(method):
    router = routers.get(method)(SHAPE, generator=torch.Generator().manual_seed(0), logit_scale=2.0)
    with torch.no_grad():
        for name, parameter in router.named_parameters():
            if name != "trunk.weight":
                parameter.zero_()
    posterior = router.posterior(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)), torch.zeros(5, 6))
    kl = posterior.kl()
    torch.testing.assert_close(kl, torch.zeros_like(kl), atol=1e-5, rtol=0)
    kl.sum().backward()
    for name, parameter in router.named_parameters():
        assert parameter.grad is None or parameter.grad.abs().max() < 1e-5, name


@pytest.mark.parametrize("method", GAUSSIAN)
def test_draws_have_the_stated_mean_and_covariance(method):
    posterior, _ = posterior_of(method)
    samples = 20_000
    draws = posterior.draw(samples, noise()).double()
    expected = reference(method, posterior)
    covariance = torch.diag_embed(expected.variance) if method == "mfvr" else expected.covariance_matrix
    spread = expected.variance.sqrt()
    assert ((draws.mean(0) - posterior.mean).abs() < 5 * spread / samples**0.5).all()
    centred = draws - draws.mean(0)
    estimate = torch.einsum("sti,stj->tij", centred, centred) / (samples - 1)
    error = (estimate - covariance).abs() / (spread[:, :, None] * spread[:, None, :])
    assert error.max() < 5 * 2**0.5 / samples**0.5


@pytest.mark.parametrize("method", GAUSSIAN)
def test_analytic_variance_equals_the_sample_estimate(method):
    posterior, _ = posterior_of(method)
    estimate = posterior.draw(20_000, noise()).double().var(0).sum(-1)
    torch.testing.assert_close(posterior.variance().double(), estimate, rtol=0.05, atol=0)


@pytest.mark.parametrize("method", GAUSSIAN)
def test_noise_scale_multiplies_the_standard_deviation(method):
    plain, _ = posterior_of(method)
    half, _ = posterior_of(method, noise_scale=0.5)
    torch.testing.assert_close(half.variance(), plain.variance() / 4)
    torch.testing.assert_close(half.kl(), plain.kl(), msg="the noise scale is for sampling, not part of the posterior")
    none, _ = posterior_of(method, noise_scale=0.0)
    assert torch.equal(none.draw(3, noise()), none.mean.expand(3, -1, -1))


@pytest.mark.parametrize("method", GAUSSIAN)
def test_extreme_router_inputs_stay_finite(method):
    """A Cholesky diagonal or a σ must neither overflow in exp nor vanish into log(0)."""
    head = routers.get(method)(SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(1.0)
        for factor in (1e4, -1e4):
            posterior = head.posterior(torch.full((2, 16), factor), torch.zeros(2, 6))
            assert torch.isfinite(posterior.kl()).all()
            assert torch.isfinite(posterior.draw(3, noise(2))).all()


@pytest.mark.parametrize("method", ["mfvr", "fcvr"])
def test_the_mean_reads_the_trunk_or_the_input(method):
    for trunk, width in (("shared", 5), ("separate", SHAPE.hidden_size)):
        head = routers.get(method)(SHAPE, generator=torch.Generator(), trunk=trunk, trunk_width=5)
        assert head.mean_head.weight.shape == (SHAPE.n_experts, width)
        with torch.no_grad():
            head.mean_head.weight.fill_(1.0)
        hidden = torch.randn(3, SHAPE.hidden_size, generator=torch.Generator().manual_seed(1))
        read = torch.relu(head.trunk(hidden)) if trunk == "shared" else hidden
        found = head.posterior(hidden, torch.zeros(3, 6)).residual
        torch.testing.assert_close(found, read.sum(-1, keepdim=True).expand(-1, 6))


def test_temperature_selects_like_sequential_sampling_without_replacement():
    logits = torch.tensor([[1.2, 0.3, -0.4, 0.0]])
    temperature = 0.7
    tokens = 40_000
    head = routers.get("temperature")(RouterShape(4, 4, 2), temperature=temperature)
    scores = head.posterior(torch.zeros(tokens, 4), logits.expand(tokens, -1)).draw(1, noise(tokens))[0]
    first, second = scores.topk(2, dim=-1).indices.unbind(-1)
    p = torch.softmax(logits[0] / temperature, -1).numpy().astype(float)
    for i, j in itertools.permutations(range(4), 2):
        expected = p[i] * p[j] / (1 - p[i])
        found = float(((first == i) & (second == j)).double().mean())
        assert abs(found - expected) < 5 * (expected / tokens) ** 0.5 + 1e-4, (i, j)


def test_temperature_gates_come_from_the_unscaled_logits():
    model = tiny_model()
    architecture = architecture_of(model)
    site = architecture.sites(model)[0]
    head = routers.get("temperature")(RouterShape(32, 8, 2), temperature=5.0)
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    index = architecture.select(site, logits)
    base = (logits, architecture.gates(site, logits, index), index)
    found = decide(architecture, site, head.posterior(torch.zeros(50, 32), logits), base, noise(50), None)
    assert (found.index != index).any(), "a temperature of 5 must change some decision"
    expected = torch.softmax(logits.gather(-1, found.index), dim=-1)
    torch.testing.assert_close(found.weight, expected)
    assert torch.equal(found.logits, logits), "the routing logits reported are the native ones"


@pytest.mark.parametrize("method", ["temperature", "vtsr"])
def test_a_flat_router_and_a_sharp_one_are_sampled_alike(method):
    """A temperature in units of the router's own spread: scaling all logits changes no selection."""
    logits = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(200, SHAPE.hidden_size, generator=torch.Generator().manual_seed(1))
    chosen, agree = {}, {}
    for unit in ("spread", "logits"):
        for scale in (1.0, 0.025):
            head = routers.get(method)(
                SHAPE, generator=torch.Generator().manual_seed(2), logit_scale=scale, temperature=0.3, unit=unit
            )
            scores = head.posterior(hidden, scale * logits).draw(8, noise(200))
            chosen[unit, scale] = scores.topk(2, dim=-1).indices.sort(-1).values
        agree[unit] = float((chosen[unit, 1.0] == chosen[unit, 0.025]).float().mean())
    assert agree["spread"] == 1.0
    assert agree["logits"] < 0.8, "in logits the flat router would be near-uniform"


@pytest.mark.parametrize("method", ["temperature", "vtsr"])
def test_a_checkpoint_from_before_units_keeps_its_temperature_in_logits(method, tmp_path):
    model = tiny_model()
    batch = tiny_batch((6, 6))
    with torch.no_grad():
        with bayesianize(model, method, temperature=0.5, unit="logits", samples=3) as handle:
            before = model(**batch).logits
            handle.save(tmp_path)
        config = json.loads((tmp_path / "routers.json").read_text())
        assert config["options"].pop("unit") == "logits"
        (tmp_path / "routers.json").write_text(json.dumps(config | {"format": 1}))
        with load_routers(model, tmp_path):
            assert torch.equal(model(**batch).logits, before)


@pytest.mark.parametrize("method", ["mfvr", "fcvr", "fcvr-lowrank"])
def test_prior_covariance_keeps_the_mean_and_has_the_priors_width(method):
    head = routers.get(method)(SHAPE, generator=torch.Generator().manual_seed(0), logit_scale=0.7)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    hidden, logits = (
        torch.randn(2, 5, SHAPE.hidden_size, generator=torch.Generator().manual_seed(2))[0],
        torch.zeros(5, 6),
    )
    before = head.posterior(hidden, logits)
    head.set_prior_covariance()
    after = head.posterior(hidden, logits)
    assert torch.equal(after.mean, before.mean)
    torch.testing.assert_close(after.variance(), torch.full((5,), 6 * (0.7 * head.prior_std) ** 2))
    shift = (after.residual / (0.7 * head.prior_std)).square().sum(-1) / 2
    torch.testing.assert_close(after.kl(), shift)
    with pytest.raises(ValueError, match="'mcdr' has no prior covariance"):
        routers.get("mcdr")(SHAPE, generator=torch.Generator()).set_prior_covariance()


def test_temperature_towards_zero_is_the_native_router():
    model = tiny_model()
    batch = tiny_batch((6, 6))  # no padding: its logits are all 0, a tie that any noise breaks
    with torch.no_grad():
        native = model(**batch).logits
        for temperature in (0.0, 1e-12):
            with bayesianize(model, "temperature", temperature=temperature):
                assert torch.equal(model(**batch).logits, native), temperature


@pytest.mark.parametrize("method", GAUSSIAN)
def test_in_router_estimator_averages_probabilities_then_selects(method):
    """S softmax vectors averaged, top-k of the average, gates = averaged probabilities renormalised over the k."""
    model = tiny_model()
    architecture = architecture_of(model)
    site = architecture.sites(model)[0]
    shape = RouterShape(site.hidden_size, site.n_experts, site.top_k)
    head = routers.get(method)(shape, generator=torch.Generator().manual_seed(0), logit_scale=2.0)
    logits = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    hidden = torch.randn(20, 32, generator=torch.Generator().manual_seed(2))
    index = architecture.select(site, logits)
    with torch.no_grad():
        posterior = head.posterior(hidden, logits)
        base = (logits, architecture.gates(site, logits, index), index)
        found = decide(architecture, site, posterior, base, noise(20), 12)
        draws = posterior.draw(12, noise(20))
    average = np.mean([torch.softmax(draw, -1).numpy() for draw in draws], axis=0)
    assert np.array_equal(found.index.numpy(), np.argsort(-average, axis=-1)[:, :2])
    chosen = np.take_along_axis(average, found.index.numpy(), axis=-1)
    np.testing.assert_allclose(found.weight.numpy(), chosen / chosen.sum(-1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(found.variance_mc.numpy(), draws.numpy().var(0, ddof=1).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(np.exp(found.logits.numpy()).sum(-1), 1.0, rtol=1e-5)


def test_one_sample_has_no_sample_variance():
    model = tiny_model()
    with bayesianize(model, "fcvr", samples=1), record(model) as recorder, torch.no_grad():
        model(**tiny_batch())
    assert np.isnan(recorder.trace.logit_variance_mc).all(), "one draw has no variance, and not a variance of 0"
    assert np.isfinite(recorder.trace.logit_variance).all()


@pytest.mark.parametrize("experts", [1, 4])
def test_every_expert_chosen(experts):
    """top-k of all experts, down to a single one: nothing to choose, and nothing to divide by."""
    model = tiny_model(num_local_experts=experts, num_experts_per_tok=experts)
    with torch.no_grad(), bayesianize(model, "fcvr", samples=3), record(model) as recorder:
        assert torch.isfinite(model(**tiny_batch()).logits).all()
    trace = recorder.trace
    assert (trace.overlap == experts).all()
    assert (trace.top_k_margin == 0).all()
    np.testing.assert_allclose(trace.gate_weight.sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "word"),
    [
        ("fcvr", {"prior_std": 0}, "prior_std"),
        ("mfvr", {"prior_std": -1.0}, "prior_std"),
        ("temperature", {"temperature": -0.1}, "temperature"),
        ("temperature", {"temperature": float("nan")}, "temperature"),
        ("fcvr", {"noise_scale": -1.0}, "noise_scale"),
        ("fcvr", {"no_such_option": 1}, "no_such_option"),
        ("fcvr", {"trunk_width": -3}, "trunk_width"),
        ("mfvr", {"trunk_width": -3}, "trunk_width"),
        ("mfvr", {"trunk": "common"}, "trunk must be 'shared' or 'separate', not 'common'"),
        ("fcvr-lowrank", {"rank": 0}, "rank must be from 1 to the number of experts .8., not 0"),
        ("fcvr-lowrank", {"rank": 9}, "rank must be from 1 to the number of experts"),
    ],
)
def test_bad_options_are_refused_by_name(method, options, word):
    with pytest.raises(VmoerError, match=word):
        bayesianize(tiny_model(), method, **options)


@pytest.mark.parametrize("method", [name for name in routers.names() if name not in ("mcdr", "laplace", "swagr")])
def test_a_chunk_draws_what_the_whole_batch_draws(method):
    posterior, _ = posterior_of(method)
    chunk, part = posterior.chunk(3, 7), slice(3, 7)
    assert type(chunk) is type(posterior)
    assert torch.allclose(chunk.draw(4, noise().chunk(3, 7)), posterior.draw(4, noise())[:, part], atol=1e-6)
    for whole, value in ((posterior.kl(), chunk.kl()), (posterior.variance(), chunk.variance())):
        assert whole is value is None or torch.allclose(value, whole[part], atol=1e-6)
    for whole, value in ((posterior.gate_logits, chunk.gate_logits), (posterior.temperature, chunk.temperature)):
        assert whole is value is None or torch.equal(value, whole[part])
