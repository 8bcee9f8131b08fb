"""Option scores equal naive full passes, one option at a time, whatever the batching, sharing and sampling."""

import numpy as np
import pytest
import torch

from vmoer.attach import bayesianize
from vmoer.errors import VmoerError
from vmoer.forward.hooks import tap_of
from vmoer.forward.recorder import record
from vmoer.measure.noise_controls import MoeNoise, disagreement, final_state_noise, matched_scale
from vmoer.scoring.likelihood import log_probabilities_of
from vmoer.scoring.options import OptionScores, score_letters, score_options
from vmoer.testing import tiny_model


class Words:
    """A tokenizer for tests: every character is a token, the space included; 1 opens a prompt."""

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [1] * add_special_tokens + [3 + ord(c) % 90 for c in text]}


class Letters(Words):
    """Like :class:`Words`, but ' A' at the end of a text is one token."""

    def __call__(self, text, add_special_tokens=True):
        if text[-2:-1] == " ":
            ids = super().__call__(text[:-2], add_special_tokens)["input_ids"]
            return {"input_ids": [*ids, 3 + ord(text[-1]) % 90]}
        return super().__call__(text, add_special_tokens)


PROMPTS = ["what", "is it so?", "abc", "a much longer prompt", "what"]
OPTIONS = [["x", "yes", " no way"], ["ab", "cd"], ["q"], [" one", " two", " three", "4"], ["y", "z", "xx"]]


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_hidden_layers=4)


def naive(model, prompt, option):
    """Summed log-likelihood of ``option`` from one plain forward pass over prompt and option."""
    head, tail = Words()(prompt)["input_ids"], Words()(option, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([head + tail])).logits[0].log_softmax(-1)
    return sum(float(log_p[len(head) + i - 1, token]) for i, token in enumerate(tail))


def all_naive(model):
    return [[naive(model, p, o) for o in options] for p, options in zip(PROMPTS, OPTIONS, strict=True)]


def assert_scores(results, expected, sample=0, atol=2e-3):
    for result, values in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.log_likelihood[sample], values, atol=atol)


def test_deterministic_scores_equal_full_passes(model):
    results = score_options(model, Words(), PROMPTS, OPTIONS)
    assert_scores(results, all_naive(model))
    assert [r.n_tokens.tolist() for r in results] == [[len(o) for o in options] for options in OPTIONS]


def test_in_router_scores_equal_full_passes(model):
    with bayesianize(model, "fcvr", samples=6) as handle:
        expected = all_naive(model)
        assert_scores(score_options(model, Words(), PROMPTS, OPTIONS, handle=handle), expected)
    assert not np.allclose(expected[0], all_naive(model)[0], atol=1e-3), "routers must change something here"


@pytest.mark.parametrize("layers", ["all", [2, 3]])
@pytest.mark.parametrize("method", ["fcvr", "temperature"])
def test_predictive_scores_equal_full_passes_sample_by_sample(model, method, layers):
    """Shared prefixes and shared lower layers must not leak between samples."""
    with bayesianize(model, method, layers=layers, estimator="predictive") as handle:
        results = score_options(model, Words(), PROMPTS, OPTIONS, handle=handle, samples=3)
        for sample in range(3):
            with handle.one_draw(torch.tensor([sample])):
                assert_scores(results, all_naive(model), sample)
    assert all(r.log_likelihood.shape[0] == 3 for r in results)


def test_one_predictive_sample_is_sample_zero(model):
    with bayesianize(model, "fcvr", estimator="predictive") as handle:
        one = score_options(model, Words(), PROMPTS, OPTIONS, handle=handle, samples=1)
        three = score_options(model, Words(), PROMPTS, OPTIONS, handle=handle, samples=3)
    for first, all_of_them in zip(one, three, strict=True):
        np.testing.assert_allclose(first.log_likelihood[0], all_of_them.log_likelihood[0], atol=2e-3)


def test_samples_are_independent_and_their_number_changes_none(model):
    with bayesianize(model, "fcvr", estimator="predictive") as handle:
        few = score_options(model, Words(), PROMPTS, OPTIONS, handle=handle, samples=2)
        many = score_options(model, Words(), PROMPTS, OPTIONS, handle=handle, samples=40)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_allclose(a.log_likelihood, b.log_likelihood[:2], atol=2e-3)
    values = np.stack([result.log_likelihood[:, 0] for result in many[:4]])
    assert (values.std(1) > 1e-3).all()
    neighbours = [np.corrcoef(row[:-1], row[1:])[0, 1] for row in values]
    assert np.abs(np.mean(neighbours)) < 0.35, "successive samples must not follow each other"


@pytest.mark.parametrize("samples", [1, 3])
def test_order_and_budget_change_no_score(model, samples):
    with bayesianize(model, "fcvr", layers=[1, 3]) as handle:
        plain = score_options(model, Words(), PROMPTS, OPTIONS, handle=handle, samples=samples)
        order = [3, 0, 4, 2, 1]
        shuffled = score_options(
            model,
            Words(),
            [PROMPTS[i] for i in order],
            [OPTIONS[i] for i in order],
            handle=handle,
            samples=samples,
            batch_tokens=20,
        )
    for place, i in enumerate(order):
        np.testing.assert_allclose(shuffled[place].log_likelihood, plain[i].log_likelihood, atol=2e-3)


def test_single_token_options_need_no_second_pass(model):
    prompts, options = ["abc", "what is"], [["x", "y"], ["p", "q", "r"]]
    results = score_options(model, Words(), prompts, options)
    expected = [[naive(model, p, o) for o in texts] for p, texts in zip(prompts, options, strict=True)]
    assert_scores(results, expected)
    with bayesianize(model, "fcvr", layers=[2]) as handle:
        drawn = score_options(model, Words(), prompts, options, handle=handle, samples=2)
        for sample in range(2):
            with handle.one_draw(torch.tensor([sample])):
                again = [[naive(model, p, o) for o in texts] for p, texts in zip(prompts, options, strict=True)]
            assert_scores(drawn, again, sample)


def test_log_probabilities_are_the_same_bits_however_few_rows_at_a_time(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, 11, generator=generator).bfloat16()
    rows = torch.tensor([4, 0, 0, 2, 3, 1, 4])
    targets = torch.randint(0, 11, (7, 3), generator=generator)
    expected = logits[:, rows].float().log_softmax(-1).gather(-1, targets.expand(2, -1, -1)[..., None])[..., 0]
    for at_once in (1, 2 * 3 * 11 * 3, 2**24):
        monkeypatch.setattr("vmoer.scoring.likelihood._AT_ONCE", at_once)
        assert torch.equal(log_probabilities_of(logits, rows, targets), expected)


def test_noise_on_the_final_state_keeps_to_the_token_budget_with_its_copies(model):
    rows = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _m, _a, out: rows.append(out.shape[0]))
    noise = final_state_noise(model, 0.1, 8)
    budget = 8 * 4 * 5  # eight copies of four questions of five tokens
    score_options(model, Words(), ["four"] * 32, [["ab", "cd"]] * 32, samples=8, expand=noise, batch_tokens=budget)
    hook.remove()
    assert max(rows) == 8 * 4 * 2, "of each question two options"


def test_letters_are_scored_as_one_token(model):
    results = score_letters(model, Letters(), ["what", "abc"], [4, 2])
    assert [r.log_likelihood.shape for r in results] == [(1, 4), (1, 2)]
    with pytest.raises(VmoerError, match="several tokens; use likelihood scoring"):
        score_letters(model, Words(), ["what"], [2])


def test_probabilities_are_a_distribution_per_sample():
    scores = OptionScores(np.array([[-1.0, -900.0], [-2000.0, -1000.0]]), np.array([1, 2]))
    np.testing.assert_allclose(scores.probabilities().sum(-1), 1.0)
    assert scores.scores("mean")[0, 1] == -450.0
    assert scores.scores("sum")[0, 1] == -900.0
    assert scores.probabilities("mean")[1].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("prompts", "options", "sentence"),
    [(["abc"], [["x", ""]], "Option 1 of prompt 0 has no tokens")],
)
def test_empty_options_are_named(model, prompts, options, sentence):
    with pytest.raises(VmoerError, match=sentence):
        score_options(model, Words(), prompts, options)


def test_empty_prompts_are_named(model):
    class Bare(Words):
        def __call__(self, text, add_special_tokens=True):
            return super().__call__(text, add_special_tokens=False)

    with pytest.raises(VmoerError, match="Prompt 1 is empty"):
        score_options(model, Bare(), ["a", ""], [["x"], ["y"]])


def test_samples_without_anything_random_are_refused(model):
    with pytest.raises(VmoerError, match="needs Bayesian routers"):
        score_options(model, Words(), PROMPTS, OPTIONS, samples=2)


def test_progress_reaches_the_end(model):
    steps = []
    score_options(model, Words(), PROMPTS, OPTIONS, batch_tokens=25, progress=lambda *step: steps.append(step))
    assert len(steps) > 1
    assert steps[-1] == (5, 5)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_scoring_leaves_the_model_as_it_was(model):
    model.train()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    with bayesianize(model, "fcvr", layers=[2]) as handle:
        score_options(model, Words(), PROMPTS, OPTIONS, handle=handle, samples=2)
    assert model.training
    model.eval()
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert "forward" not in model.model.layers[0].__dict__
    with record(model) as recorder, torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 7]]))
    assert len(recorder.trace) == 3
    assert tap_of(model).frame is None


class TestFinalStateNoise:
    """The control: noise where no routing happens."""

    def test_scale_zero_is_the_plain_model(self, model):
        plain = score_options(model, Words(), PROMPTS, OPTIONS)
        expand = final_state_noise(model, 0.0, samples=3)
        noisy = score_options(model, Words(), PROMPTS, OPTIONS, samples=3, expand=expand)
        for a, b in zip(plain, noisy, strict=True):
            assert b.log_likelihood.shape[0] == 3
            for sample in range(3):
                np.testing.assert_allclose(b.log_likelihood[sample], a.log_likelihood[0], atol=1e-5)

    def test_samples_differ_and_are_reproducible(self, model):
        def run(seed):
            expand = final_state_noise(model, 0.5, samples=2, seed=seed)
            return score_options(model, Words(), PROMPTS, OPTIONS, samples=2, expand=expand)[0].log_likelihood

        assert np.array_equal(run(0), run(0))
        assert not np.allclose(run(0)[0], run(0)[1])
        assert not np.allclose(run(0), run(1))

    def test_batching_changes_no_draw(self, model):
        expand = final_state_noise(model, 0.5, samples=2)
        together = score_options(model, Words(), PROMPTS, OPTIONS, samples=2, expand=expand)
        apart = score_options(model, Words(), PROMPTS, OPTIONS, samples=2, expand=expand, batch_tokens=10)
        for a, b in zip(together, apart, strict=True):
            np.testing.assert_allclose(a.log_likelihood, b.log_likelihood, atol=2e-3)

    def test_routing_is_left_alone(self, model):
        expand = final_state_noise(model, 5.0, samples=2)
        with record(model) as noisy:
            score_options(model, Words(), PROMPTS, OPTIONS, samples=2, expand=expand)
        with record(model) as plain:
            score_options(model, Words(), PROMPTS, OPTIONS)
        assert np.array_equal(noisy.trace.expert_index, plain.trace.expert_index)
        assert len(noisy.trace) == len(plain.trace)

    def test_made_before_the_routers_it_still_shares_their_hooks(self, model):
        expand = final_state_noise(model, 0.5, samples=2)
        with bayesianize(model, "fcvr", samples=3) as handle:
            score_options(model, Words(), PROMPTS, OPTIONS, samples=2, expand=expand)
            assert handle.active
            with pytest.raises(VmoerError, match="already carries"):
                bayesianize(model, "mfvr")

    def test_stronger_noise_disagrees_more(self, model):
        plain = score_options(model, Words(), PROMPTS, OPTIONS)

        def strength(scale):
            expand = final_state_noise(model, scale, samples=4)
            return disagreement(score_options(model, Words(), PROMPTS, OPTIONS, samples=4, expand=expand), plain)

        values = [strength(scale) for scale in (0.0, 0.05, 0.5)]
        assert values[0] == pytest.approx(0.0, abs=1e-5)
        assert values[0] < values[1] < values[2]
        target = values[1]
        assert strength(matched_scale(strength, target, steps=10)) == pytest.approx(target, rel=0.1)

    def test_negative_scale_is_refused(self, model):
        with pytest.raises(VmoerError, match="0 or more"):
            final_state_noise(model, -1.0, samples=2)


def test_matched_scale_finds_the_root_of_a_known_curve():
    assert matched_scale(lambda scale: scale**2, 0.25, steps=20) == pytest.approx(0.5, rel=1e-3)


class TestScoredPositions:
    """Routing sampled only where answers are read; the prompt before runs once, averaged in the routers."""

    @pytest.mark.parametrize("layers", ["all", [2, 3]])
    @pytest.mark.parametrize("method", ["fcvr", "der", "swagr"])
    def test_scores_equal_passes_that_sample_the_end_against_an_averaged_prefix(self, model, method, layers):
        with bayesianize(model, method, layers=layers, samples=5, estimator="predictive") as handle:
            results = score_options(model, Words(), PROMPTS, OPTIONS, handle=handle, samples=3, positions="scored")
            for sample in range(3):
                expected = [
                    [mixed(model, handle, sample, p, o) for o in options]
                    for p, options in zip(PROMPTS, OPTIONS, strict=True)
                ]
                assert_scores(results, expected, sample)

    def test_groups_of_samples_and_questions_change_nothing(self, model):
        with bayesianize(model, "fcvr", layers=[1, 3], estimator="predictive") as handle:
            run = {"handle": handle, "samples": 5, "positions": "scored"}
            together = score_options(model, Words(), PROMPTS, OPTIONS, **run)
            apart = score_options(model, Words(), PROMPTS, OPTIONS, batch_tokens=20, **run)
        for a, b in zip(together, apart, strict=True):
            np.testing.assert_allclose(a.log_likelihood, b.log_likelihood, atol=2e-3)

    def test_prompts_of_one_token_have_nothing_before_them(self, model):
        class Bare(Words):
            def __call__(self, text, add_special_tokens=True):
                return super().__call__(text, add_special_tokens=False)

        with bayesianize(model, "fcvr", estimator="predictive") as handle:
            forms = [
                score_options(model, Bare(), ["a", "b"], [["x", "yy"], ["z"]], handle=handle, samples=2, positions=form)
                for form in ("all", "scored")
            ]
        for a, b in zip(*forms, strict=True):
            np.testing.assert_allclose(a.log_likelihood, b.log_likelihood, atol=1e-4)

    def test_it_is_another_answer_than_sampling_everywhere(self, model):
        with bayesianize(model, "fcvr", estimator="predictive") as handle:
            forms = [
                score_options(model, Words(), PROMPTS, OPTIONS, handle=handle, samples=2, positions=form)
                for form in ("all", "scored")
            ]
        assert not np.allclose(forms[0][3].log_likelihood, forms[1][3].log_likelihood, atol=1e-3)

    def test_noise_controls_take_it_too(self, model):
        noise = MoeNoise(model, [1, 2], 0.3)
        scored = score_options(model, Words(), PROMPTS, OPTIONS, handle=noise, samples=2, positions="scored")
        assert np.std(scored[3].log_likelihood, axis=0).min() > 1e-4

    def test_other_words_are_refused(self, model):
        with pytest.raises(VmoerError, match=r"Unknown choice of positions 'scores'\. Did you mean 'scored'"):
            score_options(model, Words(), PROMPTS, OPTIONS, positions="scores")


def mixed(model, handle, sample, prompt, option):
    """Summed log-likelihood: the prompt without its last token averaged in the routers, one draw from there on."""
    from transformers import DynamicCache

    head, tail = Words()(prompt)["input_ids"], Words()(option, add_special_tokens=False)["input_ids"]
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        with handle.averaged():
            model(input_ids=torch.tensor([head[:-1]]), past_key_values=cache)
        with handle.one_draw(torch.tensor([sample])):
            log_p = model(input_ids=torch.tensor([head[-1:] + tail]), past_key_values=cache).logits[0].log_softmax(-1)
    return sum(float(log_p[i, token]) for i, token in enumerate(tail))


def test_an_ensemble_has_no_more_samples_than_members(model):
    with bayesianize(model, "der", members=3, estimator="predictive") as handle:
        results = score_options(model, Words(), PROMPTS, OPTIONS, handle=handle, samples=8)
    assert all(result.log_likelihood.shape[0] == 3 for result in results)
