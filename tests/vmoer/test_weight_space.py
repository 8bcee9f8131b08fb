"""Weight-space routers: draws, moments and curvature against independent computations, and training of each."""

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

import vmoer
from vmoer.attach import bayesianize
from vmoer.errors import VmoerError
from vmoer.forward.recorder import record
from vmoer.rng import TokenNoise, mix
from vmoer.routers import RouterShape, routers
from vmoer.routers.laplace import best_precision, log_evidence
from vmoer.scoring.likelihood import answer_log_probabilities
from vmoer.testing import tiny_batch, tiny_model
from vmoer.training import curvature as laplace
from vmoer.training.config import Example, TrainingConfig
from vmoer.training.loop import train
from vmoer.training.map_routers import fine_tune

SHAPE = RouterShape(hidden_size=12, n_experts=5, top_k=2)
TRAINED = ["mcdr", "swagr", "der", "laplace"]


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_hidden_layers=2)


def head_of(method, **options):
    return routers.get(method)(SHAPE, generator=torch.Generator().manual_seed(0), logit_scale=1.5, **options)


def inputs(tokens=6):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(tokens, SHAPE.hidden_size, generator=generator)
    return hidden, torch.randn(tokens, SHAPE.n_experts, generator=generator)


def noise(tokens=6, sample=None):
    return TokenNoise(mix(torch.arange(tokens, dtype=torch.int64)), 77, sample)


def questions(count, seed):
    generator = torch.Generator().manual_seed(seed)

    def ids(low, high):
        length = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(3, 97, (length,), generator=generator).tolist()

    return [Example(ids(3, 7), ids(1, 4)) for _ in range(count)]


def native_logits(model, **options):
    with torch.no_grad():
        return model(**tiny_batch(), **options).logits


class TestDropout:
    def test_draws_are_the_native_router_of_masked_inputs(self, model):
        weight = model.model.layers[0].block_sparse_moe.router.weight.detach()
        with bayesianize(model, "mcdr", layers=[0], rate=0.25) as handle, torch.no_grad():
            hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
            posterior = handle.head(0).posterior(hidden, hidden @ weight.T)
            keep = noise(4).keep(500, 32, 0.25)
            found = posterior.draw(500, noise(4))
        expected = torch.einsum("sth,eh->ste", keep * hidden / 0.75, weight)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert abs(float(keep.float().mean()) - 0.75) < 4 * (0.25 * 0.75 / keep.numel()) ** 0.5

    def test_probabilities_are_averaged_not_logits(self, model):
        """Averaged logits would tend to the native ones, averaged probabilities to something flatter."""
        with torch.no_grad(), record(model) as plain:
            model(**tiny_batch())
        with torch.no_grad(), bayesianize(model, "mcdr", rate=0.5, samples=400), record(model) as averaged:
            model(**tiny_batch())
        # layer 0 sees the same input in both
        assert averaged.trace.routing_entropy[:, 0].mean() > plain.trace.routing_entropy[:, 0].mean() + 0.01

    def test_rate_zero_is_the_native_router(self, model):
        expected = native_logits(model)
        for estimator in ("in-router", "predictive"):
            with bayesianize(model, "mcdr", rate=0.0, estimator=estimator):
                assert torch.equal(native_logits(model), expected)

    @pytest.mark.parametrize("rate", [1.0, 1.5, -0.1, float("nan")])
    def test_other_rates_are_refused(self, model, rate):
        with pytest.raises(VmoerError, match="rate must be 0 or more and less than 1"):
            bayesianize(model, "mcdr", rate=rate)


class TestSharedWeights:
    """One weight draw per sample, shared by all tokens."""

    def test_all_tokens_meet_the_same_weights(self):
        head = head_of("laplace")
        hidden, logits = inputs()
        same = head.posterior(hidden[:1].expand(6, -1), logits).draw(3, noise()) - logits
        torch.testing.assert_close(same, same[:, :1].expand_as(same))
        assert (same[0] - same[1]).abs().min() > 1e-4, "another sample, other weights"

    def test_one_draw_of_sample_s_is_draw_s_of_all(self):
        head = head_of("swagr")
        hidden, logits = inputs()
        posterior = head.posterior(hidden, logits)
        numbers = torch.tensor([2, 0, 1, 2, 2, 0])
        one = posterior.draw(1, noise(sample=numbers))[0]
        every = posterior.draw(3, noise())
        torch.testing.assert_close(one, every[numbers, torch.arange(6)])

    @pytest.mark.parametrize("budget", [1, 130])
    def test_weights_drawn_in_parts_are_the_same(self, monkeypatch, budget):
        head = head_of("laplace")
        hidden, logits = inputs()
        whole = head.posterior(hidden, logits).draw(7, noise())
        monkeypatch.setattr("vmoer.routers.weights.WEIGHT_BUDGET", budget)
        torch.testing.assert_close(head.posterior(hidden, logits).draw(7, noise()), whole)

    def test_variance_and_covariance_follow_from_the_weights(self):
        head = head_of("swagr", snapshots=4, rank=3)
        generator = torch.Generator().manual_seed(5)
        for _ in range(4):
            with torch.no_grad():
                head.weight.copy_(0.3 * torch.randn(head.weight.shape, generator=generator))
            head.collect()
        hidden, logits = inputs(2)
        posterior = head.posterior(hidden, logits)
        draws = posterior.draw(20_000, noise(2)).double()
        deviation = 1.5 * (draws - posterior.mean).reshape(20_000, -1) / 1.5
        weights = torch.diag_embed(0.5 * head.std.square().flatten())
        columns = head.factors.flatten(1) / (2 * 2) ** 0.5  # K = 3: two degrees of freedom
        weights = 1.5**2 * (weights + columns.T @ columns).view(5, 12, 5, 12)
        expected = torch.einsum("th,ehfg,ug->teuf", hidden, weights, hidden).reshape(10, 10).double()
        found = deviation.T @ deviation / 20_000
        scale = expected.diagonal().sqrt()
        assert ((found - expected).abs() / (scale[:, None] * scale)).max() < 5 * 2**0.5 / 20_000**0.5
        torch.testing.assert_close(
            posterior.variance().double(), expected.diagonal().view(2, 5).sum(-1), rtol=1e-4, atol=0
        )


class TestSwag:
    def test_moments_are_those_of_the_snapshots(self):
        head = head_of("swagr", snapshots=9, rank=4)
        generator = torch.Generator().manual_seed(2)
        snapshots = torch.randn(9, 5, 12, generator=generator)
        for weights in snapshots:
            with torch.no_grad():
                head.weight.copy_(weights)
            head.collect()
        torch.testing.assert_close(head.average, snapshots.mean(0))
        torch.testing.assert_close(head.std, snapshots.std(0, correction=0))
        for number in (5, 6, 7, 8):
            expected = snapshots[number] - snapshots[: number + 1].mean(0)
            torch.testing.assert_close(head.factors[number % 4], expected)

    def test_one_snapshot_has_no_spread_and_divides_by_nothing(self, model):
        expected = native_logits(model)
        with bayesianize(model, "swagr", samples=4) as handle:
            for layer in handle.layers:
                handle.head(layer).collect()
            for estimator in ("in-router", "predictive"):
                handle.estimator = estimator
                handle.restore()
                handle.enable()
                assert torch.equal(native_logits(model), expected), (
                    "one snapshot of the native weights is the native router"
                )

    def test_rank_zero_is_diagonal(self):
        head = head_of("swagr", rank=0)
        head.collect()
        with torch.no_grad():
            head.weight.add_(1.0)
        head.collect()
        hidden, logits = inputs()
        expected = 1.5**2 * hidden.square().sum(-1) * 5 * 0.5 * 0.25  # std of {0, 1} is ½
        torch.testing.assert_close(head.posterior(hidden, logits).variance(), expected)

    def test_more_columns_than_snapshots_are_refused(self, model):
        with pytest.raises(VmoerError, match=r"rank must be from 0 to snapshots .5., as each gives one column; not 6"):
            bayesianize(model, "swagr", snapshots=5, rank=6)

    @pytest.mark.parametrize(("total", "wanted"), [(40, 20), (400, 20), (7, 4), (1, 1)])
    def test_snapshots_are_taken_in_the_second_half(self, total, wanted):
        head = head_of("swagr")
        taken = []
        head.collect = lambda: taken.append(step)
        for step in range(1, total + 1):
            head.after_step(step, total)
        assert len(taken) == wanted
        assert taken[-1] == total
        assert min(taken) > total // 2


class TestEnsemble:
    def test_in_router_is_the_mean_of_all_members_whatever_samples(self, model):
        with bayesianize(model, "der", layers=[0], samples=35, members=3) as handle, torch.no_grad():
            with record(model) as recorder:
                model(**tiny_batch())
            weight = model.model.layers[0].block_sparse_moe.router.weight
            head = handle.head(0)
            seen = []
            with handle.tap.listening(lambda site, decision, _: seen.append(decision)):
                model(**tiny_batch())
            hidden = seen[0].hidden
            members = torch.stack([hidden @ (weight + head.logit_scale * shift).T for shift in head.weights])
        real = tiny_batch()["attention_mask"].bool().flatten()
        expected = torch.softmax(members, -1).mean(0)
        torch.testing.assert_close(seen[0].logits.exp()[real], expected[real], rtol=1e-4, atol=1e-5)
        found = recorder.trace.logit_variance_mc[:, 0]
        np.testing.assert_allclose(found, members.var(0).sum(-1)[real], rtol=1e-3)

    def test_a_fresh_ensemble_is_centred_on_the_native_router(self):
        for members in (2, 3, 4):
            head = head_of("der", members=members)
            hidden, logits = inputs()
            head.noise_scale.zero_()
            draws = head.posterior(hidden, logits).draw(members, noise())
            assert torch.equal(draws, logits.expand(members, -1, -1))
            head.noise_scale.fill_(1.0)
            assert (head.posterior(hidden, logits).variance() > 0).all()

    def test_one_member_is_no_ensemble(self, model):
        with pytest.raises(VmoerError, match="members must be 2 or more"):
            bayesianize(model, "der", members=1)

    def test_members_train_independently(self, model):
        """One of two members goes the same way whatever the other is; and the other goes a way of its own."""
        config = TrainingConfig(
            epochs=2, batch_size=4, micro_batch=3, learning_rate=0.02, patience=99, weight_decay=0.1
        )
        paths = []
        for other in (0.0, 0.5):
            path = []
            with bayesianize(model, "der", layers=[0, 1], members=2) as handle:
                weights = [handle.head(layer).weights for layer in (0, 1)]
                with torch.no_grad():
                    weights[1][1] += other
                start = [each.detach().clone() for each in weights]

                def watch(*_, path=path, weights=weights):
                    path.append(torch.stack(weights).detach().clone())

                train(handle, questions(8, 1), questions(3, 2), config, progress=watch)
            paths.append(torch.stack(path))
        assert len(paths[0]) == 4
        assert torch.equal(paths[0][:, :, 0], paths[1][:, :, 0])
        moved = paths[1][-1] - torch.stack(start)
        assert not torch.allclose(moved[:, 0], moved[:, 1], atol=1e-3), "its own order of the data"


class TestLaplace:
    def test_evidence_is_exact_for_a_linear_gaussian_model(self):
        """Orthogonal inputs, unit noise: the posterior is Gaussian with diagonal precision, the evidence known."""
        generator = torch.Generator().manual_seed(3)
        basis = torch.linalg.qr(torch.randn(30, 4, dtype=torch.float64, generator=generator)).Q
        design = basis * torch.tensor([3.0, 2.0, 1.0, 0.1], dtype=torch.float64)
        target = design @ torch.randn(4, dtype=torch.float64, generator=generator)
        target = target + torch.randn(30, dtype=torch.float64, generator=generator)
        curvature = design.square().sum(0)
        for precision in torch.tensor([0.01, 0.5, 20.0], dtype=torch.float64):
            weight = (design.T @ target) / (curvature + precision)
            likelihood = -0.5 * (target - design @ weight).square().sum() - 15 * np.log(2 * np.pi)
            covariance = torch.eye(30, dtype=torch.float64) + design @ design.T / precision
            exact = MultivariateNormal(torch.zeros(30, dtype=torch.float64), covariance).log_prob(target)
            torch.testing.assert_close(likelihood + log_evidence(curvature, weight, precision), exact)

    def test_the_precision_of_greatest_evidence_is_found(self):
        """With strong data everywhere the optimum is known: precision = P / ‖A‖²."""
        weight = torch.full((10, 10), 0.2)
        found = best_precision(torch.full((10, 10), 1e9), weight, 0.2)
        assert found == pytest.approx(25.0, rel=0.06)
        assert best_precision(torch.ones(10, 10), torch.zeros(10, 10), 0.2) == pytest.approx(25 * np.exp(8))

    def test_curvature_is_the_gauss_newton_diagonal_of_the_task_loss(self, model):
        """Against E_y over the whole vocabulary of squared autograd gradients, one answer token each."""
        few = [Example(e.prompt, e.answer[:1]) for e in questions(3, 7)]
        with bayesianize(model, "laplace", layers=[0, 1]) as handle:
            found = laplace.fisher_diagonal(handle, few, micro_batch=2, seed=1, draws=1000)
            exact = {layer: torch.zeros_like(found[layer]) for layer in found}
            parameters = [handle.head(layer).weight for layer in (0, 1)]
            with handle.without_noise():
                for example in few:
                    with handle.one_draw():
                        log_p, _, scored = answer_log_probabilities(model, [(example.prompt, example.answer)])
                    row = log_p[scored][0]
                    for token in range(len(row)):
                        gradients = torch.autograd.grad(row[token], parameters, retain_graph=True)
                        for layer, gradient in zip((0, 1), gradients, strict=True):
                            exact[layer] += row[token].detach().exp() * gradient.square()
        for layer in (0, 1):
            assert exact[layer].max() > 0
            ratio = float(found[layer].sum() / exact[layer].sum())
            assert ratio == pytest.approx(1.0, abs=0.15)
            top = exact[layer] > 0.1 * exact[layer].max()
            torch.testing.assert_close(found[layer][top], exact[layer][top], rtol=0.5, atol=0)

    def test_data_narrow_the_prior(self, model):
        with bayesianize(model, "laplace", layers=[1]) as handle:
            head = handle.head(1)
            hidden = torch.ones(1, 32)
            before = head.posterior(hidden, torch.zeros(1, 8)).variance()
            assert float(before) == pytest.approx(8 * (0.5 * float(head.logit_scale)) ** 2, rel=1e-3)
            head.curvature.copy_(laplace.fisher_diagonal(handle, questions(6, 3), micro_batch=3)[1])
            assert head.posterior(hidden, torch.zeros(1, 8)).variance() < before


@pytest.mark.parametrize("method", TRAINED)
def test_train_save_load_evaluate(model, method, tmp_path):
    """A few steps lower the training loss; what was trained comes back from disk to the bit."""
    options = {"mcdr": {"rate": 0.1}, "swagr": {"snapshots": 4, "rank": 3}, "der": {"members": 2}, "laplace": {}}[
        method
    ]
    config = TrainingConfig(epochs=8, batch_size=4, micro_batch=4, learning_rate=0.05, evaluate_every=4, patience=99)
    train_set = questions(8, 1)
    with bayesianize(model, method, samples=4, **options) as handle:
        result = train(handle, train_set, train_set[:0] + questions(4, 2), config)
        tasks = [value for _, _, quantity, value in result.log if quantity == "task_loss"]
        assert np.mean(tasks[-4:]) < np.mean(tasks[:4]) - 0.05, "nothing was learned"
        assert float(handle.head(0).noise_scale) == 1.0, "training without noise must turn it on again"
        expected = native_logits(model)
        handle.save(tmp_path)
    with vmoer.load_routers(model, tmp_path) as loaded:
        assert torch.equal(native_logits(model), expected)
        assert loaded.head(0).options() == handle.head(0).options()
    quantities = {quantity for _, _, quantity, _ in result.log}
    if method == "swagr":
        assert ("snapshots", 4.0) in {(quantity, value) for _, _, quantity, value in result.log}
        assert float(handle.head(0).std.max()) > 0
    if method in ("swagr", "laplace"):
        assert "posterior_validation_nll" in quantities


@pytest.mark.parametrize("method", ["swagr", "der"])
def test_an_interrupted_training_ends_where_an_undisturbed_one_does(model, method, tmp_path):
    config = TrainingConfig(epochs=3, batch_size=4, micro_batch=4, learning_rate=0.02, evaluate_every=2, patience=99)

    def run(folder, stop=None):
        def progress(done, _total, _message):
            if done == stop:
                raise KeyboardInterrupt

        with bayesianize(model, method, layers=[1], samples=4) as handle:
            train(handle, questions(8, 1), questions(3, 2), config, folder=folder, progress=progress)
            return {name: tensor.clone() for name, tensor in handle.routers.state_dict().items()}

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop=5)
    again = run(tmp_path / "parts")
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        ("swagr", {"progressive": True}, "collect snapshots on the path of training cannot be trained progressively"),
        ("der", {"objective": "averaged"}, "Members of an ensemble are trained independently"),
    ],
)
def test_training_that_would_contradict_the_method_is_refused(model, method, settings, sentence):
    with bayesianize(model, method) as handle, pytest.raises(VmoerError, match=sentence):
        train(handle, questions(4, 1), questions(2, 2), TrainingConfig(**settings))


def test_dropout_masks_the_input_of_a_fine_tuned_router_too():
    """MAP routers stand in for the native ones: their shift sees the same mask."""
    model = tiny_model(num_hidden_layers=1)
    tuned = fine_tune(model)
    weight = model.model.layers[0].block_sparse_moe.router.weight
    with torch.no_grad():
        tuned.shifts["0"].weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(4))
        both = weight + tuned.shifts["0"].weight
        with bayesianize(model, "mcdr", rate=0.5) as handle:
            hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
            found = handle.head(0).posterior(hidden, hidden @ both.T).draw(20, noise(4))
    expected = torch.einsum("sth,eh->ste", noise(4).keep(20, 32, 0.5) * hidden / 0.5, both)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
