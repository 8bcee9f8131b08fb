"""The tokens of an answer are those of prompt and answer as one text, for every kind of tokenizer."""

import numpy as np
import pytest
import torch
from tokenizers import processors

from tests.harness import agreement
from vmoer.attach import bayesianize
from vmoer.errors import VmoerError
from vmoer.models.context_limit import context_limit
from vmoer.scoring.answer_tokens import AnswerTokens, answer_tokens, prompt_tokens
from vmoer.scoring.likelihood import log_likelihood
from vmoer.scoring.options import score_letters, score_options
from vmoer.testing import tiny_model
from vmoer.training.config import encode


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: make() for kind, make in agreement.KINDS.items()}


@pytest.mark.parametrize("kind", agreement.KINDS)
def test_option_scores_equal_a_plain_loop_over_whole_texts(kind):
    worst, other_tokens, compared = agreement.differences(kind, "MixtralForCausalLM")
    assert (other_tokens, compared) == (0, 19)
    assert worst < agreement.TOLERANCE


def test_scoring_apart_would_have_been_noticed(tokenizers):
    """The tokenizers of the comparison do split differently where prompt and option are taken apart."""
    for kind in set(agreement.KINDS) - {"marked"}:
        tokenizer = tokenizers[kind]
        differing = [
            text
            for prompt, options in zip(agreement.PROMPTS, agreement.OPTIONS, strict=True)
            for text, tokens in zip(options, answer_tokens(tokenizer, prompt, options).answers, strict=True)
            if tokenizer(text, add_special_tokens=False)["input_ids"] != tokens
        ]
        assert differing, kind


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
def test_samples_of_options_with_contexts_of_their_own_equal_full_passes(tokenizers, kind):
    tokenizer = tokenizers[kind]
    model = tiny_model(vocab_size=len(tokenizer))
    prompts, options = agreement.PROMPTS[:2], agreement.OPTIONS[:2]
    assert answer_tokens(tokenizer, prompts[1], options[1]).joined
    with bayesianize(model, "mfvr", estimator="predictive") as handle:
        scored = score_options(model, tokenizer, prompts, options, handle=handle, samples=3)
        for sample in range(3):
            with handle.one_draw(torch.tensor([sample])):
                expected = [
                    [value for value, _ in agreement.plain_scores(model, tokenizer, prompt, texts)]
                    for prompt, texts in zip(prompts, options, strict=True)
                ]
            for found, values in zip(scored, expected, strict=True):
                np.testing.assert_allclose(found.log_likelihood[sample], values, atol=2e-3)


def test_a_hundred_options_are_scored_a_few_at_a_time(tokenizers):
    tokenizer = tokenizers["byte-fallback"]
    model = tiny_model(vocab_size=len(tokenizer))
    options = [f" {name} {n}" for n in range(25) for name in ("France", "Norway", "abbey", "port")]
    rows = []
    hook = model.register_forward_pre_hook(
        lambda _model, _args, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    budget = 2 * len(answer_tokens(tokenizer, "Answer:", options).prompt)
    scored = score_options(model, tokenizer, ["Answer:"], [options], batch_tokens=budget)[0]
    hook.remove()
    expected = agreement.plain_scores(model, tokenizer, "Answer:", options)
    np.testing.assert_allclose(scored.log_likelihood[0], [value for value, _ in expected], atol=2e-3)
    assert max(rows) < 50, "the prompt's keys and values are not copied for all at once"


@pytest.mark.parametrize("kind", agreement.KINDS)
def test_training_targets_are_the_tokens_that_are_scored(tokenizers, kind):
    tokenizer = tokenizers[kind]
    model = tiny_model(vocab_size=len(tokenizer))
    examples = encode(
        tokenizer,
        agreement.PROMPTS,
        [options[0] for options in agreement.OPTIONS],
        [options[1:] for options in agreement.OPTIONS],
    )
    for example, prompt, options in zip(examples, agreement.PROMPTS, agreement.OPTIONS, strict=True):
        with torch.no_grad():
            total, count = log_likelihood(model, example.rows(choice=True))
        expected = agreement.plain_scores(model, tokenizer, prompt, options)
        np.testing.assert_allclose(total, [value for value, _ in expected], atol=2e-3)
        assert count.tolist() == [tokens for _, tokens in expected]


def test_a_letter_is_one_token_where_the_tokenizer_marks_the_start_of_a_text(tokenizers):
    tokenizer = tokenizers["prepended"]
    assert len(tokenizer(" A", add_special_tokens=False)["input_ids"]) == 2, "apart, the mark comes twice"
    model = tiny_model(vocab_size=len(tokenizer))
    assert score_letters(model, tokenizer, ["Answer:"], [1])[0].n_tokens.tolist() == [1]


def test_more_options_than_letters_are_refused(tokenizers):
    with pytest.raises(VmoerError, match="27 options are more than there are letters; use likelihood scoring"):
        score_letters(tiny_model(), tokenizers["unmarked"], ["Answer:"], [27])


def test_special_tokens_a_text_begins_with_are_not_added_again(tokenizers):
    tokenizer = tokenizers["prepended"]
    once = tokenizer("Lyon")["input_ids"]
    assert tokenizer("<s>Lyon")["input_ids"][:2] == [1, 1], "the tokenizer itself adds it twice"
    assert prompt_tokens(tokenizer, "<s>Lyon")[:2] != [1, 1]
    assert prompt_tokens(tokenizer, "<s>Lyon") == tokenizer("<s>Lyon", add_special_tokens=False)["input_ids"]
    assert prompt_tokens(tokenizer, "Lyon") == once
    assert prompt_tokens(tokenizer, "Lyon", special_tokens=False) == once[1:]


def test_a_token_that_closes_a_text_does_not_stand_between_prompt_and_answer(tokenizers):
    tokenizer = agreement.prepended()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    closed = answer_tokens(tokenizer, "Lyon is a city", [" in", " of"])
    assert closed == answer_tokens(tokenizers["prepended"], "Lyon is a city", [" in", " of"])
    assert tokenizer("Lyon is a city")["input_ids"] == [*closed.prompt, 2]


@pytest.mark.parametrize(
    ("prompt", "option", "sentence"),
    [
        ("Which", "\n", "Option 0 of the prompt has no tokens of its own"),
        ("", " a", "The prompt is empty"),
    ],
)
def test_answers_without_tokens_are_refused(tokenizers, prompt, option, sentence):
    kind = "word-pieces" if prompt else "byte-level"
    with pytest.raises(VmoerError, match=sentence):
        answer_tokens(tokenizers[kind], prompt, [option])


def test_an_answer_that_joins_the_first_token_of_all_is_refused(tokenizers):
    assert len(tokenizers["byte-level"](" th")["input_ids"]) == 1
    with pytest.raises(VmoerError, match="Option 0 joins the first token of the prompt"):
        answer_tokens(tokenizers["byte-level"], " th", ["e"])


def test_cutting_leaves_the_opening_and_the_end_of_the_prompt():
    tokens = AnswerTokens([1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5]], [[7, 8], [9]], opening=1)
    assert tokens.longest == 7
    assert tokens.cut(7) is tokens
    cut = tokens.cut(5)
    assert (cut.prompt, cut.contexts, cut.longest) == ([1, 4, 5, 6], [[1, 4, 5, 6], [1, 3, 4, 5]], 5)
    with pytest.raises(VmoerError, match="An answer is longer than the 2 tokens this model can read"):
        tokens.cut(2)


class TestContextLimit:
    @pytest.mark.parametrize(
        ("family", "rope", "limit"),
        [
            ("MixtralForCausalLM", {"rope_type": "default"}, 128),
            ("MixtralForCausalLM", {"rope_type": "linear", "factor": 2.0}, 256),
            ("MixtralForCausalLM", {"rope_type": "dynamic", "factor": 4.0}, 512),
            ("MixtralForCausalLM", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
            ("GptOssForCausalLM", {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4}, 128),
            ("MixtralForCausalLM", {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}, 128),
        ],
    )
    def test_it_is_what_the_rope_scaling_makes_of_the_configuration(self, family, rope, limit):
        config = tiny_model(family).config
        config.rope_parameters = {"rope_theta": 10000.0, **rope}
        assert context_limit(config) == limit

    def test_windows_and_models_without_positions_have_none(self):
        assert context_limit(tiny_model("JambaForCausalLM").config) is None
        assert context_limit(tiny_model("MixtralForCausalLM", sliding_window=8).config) == 128
        config = tiny_model("GraniteMoeHybridForCausalLM").config
        config.position_embedding_type = "nope"
        assert context_limit(config) is None

    def test_texts_beyond_it_are_counted_and_refused(self, tokenizers):
        tokenizer = tokenizers["byte-level"]
        model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=16)
        sentence = r"1 of 2 texts are longer than the 16 tokens this model can read \(the longest has \d\d\)"
        with pytest.raises(VmoerError, match=sentence):
            score_options(model, tokenizer, ["Lyon", agreement.PROMPTS[0] * 3], [[" is"], [" France"]])
