"""The pretraining recipe's own parts: each would silently change the shipped weights if it broke."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer

from pipelines.data.prompts import likelihood_prompt
from tools.worldfacts.batches import Batch, Batches, Example, NameDropout
from tools.worldfacts.figures import read_questions
from tools.worldfacts.pretrain import BUNDLED, TrainingHooks, choice_loss, make_model
from tools.worldfacts.recipe import Recipe, learning_rate

TINY = replace(Recipe(), hidden=32, heads=2, key_value_heads=1, expert_width=8, experts=4, block_drop=(0.5, 0.0))


def test_name_dropout_of_zero_is_the_tokenizer_itself() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    plain = NameDropout(tokenizer, 0.0, random.Random(0))
    for row in read_questions("test", 50):
        assert plain(row["question"]) == tokenizer(likelihood_prompt(row["question"]))["input_ids"]


def test_name_dropout_changes_only_the_name_and_repeats_with_its_seed() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    question = "The city of Antananarivo lies in which country?"
    first = [NameDropout(tokenizer, 0.5, random.Random(seed))(question) for seed in (1, 1, 2)]
    assert first[0] == first[1] != first[2]
    plain = tokenizer(likelihood_prompt(question))["input_ids"]
    assert first[0] != plain
    assert tokenizer.decode(first[0]) == likelihood_prompt(question)
    assert first[0][:5] == plain[:5]
    assert first[0][-8:] == plain[-8:]


def test_a_block_is_dropped_for_whole_sequences_in_training_and_never_after() -> None:
    generator = torch.Generator().manual_seed(0)
    model = make_model(TINY, generator)
    hooks = TrainingHooks(TINY, model, generator)
    hooks.is_real = torch.ones(64, 5, dtype=torch.bool)
    block = model.model.layers[0].block_sparse_moe
    hidden = torch.randn(64, 5, TINY.hidden, generator=generator)
    silent = (block.train()(hidden) == 0).all(dim=-1)
    assert torch.equal(silent.any(dim=1), silent.all(dim=1))
    assert 16 <= int(silent.all(dim=1).sum()) <= 48
    assert not (block.eval()(hidden) == 0).all(dim=-1).any()


def test_load_balance_is_one_when_even_and_ignores_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    model = make_model(TINY, generator)
    hooks = TrainingHooks(TINY, model, generator)
    router = model.model.layers[1].block_sparse_moe.router.train()
    hooks.is_real = torch.tensor([[True] * 8 + [False] * 8])
    with torch.no_grad():
        router.weight.copy_(torch.eye(TINY.experts, TINY.hidden) * 8)
    hidden = torch.zeros(16, TINY.hidden)
    for token in range(8):  # the two experts of token t: t and t + 1, so each expert has a quarter
        hidden[token, token % 4] = 1
        hidden[token, (token + 1) % 4] = 1
    hidden[8:, 0] = 9  # padding: all to one expert
    router(hidden)
    assert hooks.load_balance().item() == pytest.approx(1.0, abs=1e-5)


def test_choice_loss_is_that_of_four_equal_options_and_falls_with_the_right_one() -> None:
    option = torch.tensor([[False, True, True], [False, True, False], [False, True, False], [False, True, False]])
    batch = Batch(torch.zeros(4, 3), option, option, option, questions=1)
    equal = torch.full((4, 2), 2.0)
    assert choice_loss(equal, batch, 1).item() == pytest.approx(1.3863, abs=1e-4)
    better = equal.clone()
    better[0] = 0.0
    assert choice_loss(better, batch, 1).item() < 1.3863


def test_batches_target_the_answer_and_the_end_token_only() -> None:
    recipe = replace(Recipe(), batch=10, city_share=0.6, country_share=0.2, choice_questions=2)
    example = Example([5, 6, 7], [[8, 9], [10], [11], [12]])
    pools = {"city": [example], "country": [example], "element": [example]}
    batch = Batches(recipe, pools, 2, torch.Generator().manual_seed(0)).next()
    assert batch.ids.shape == (10 + 2 * 3, 6)
    assert batch.ids[0].tolist() == [5, 6, 7, 8, 9, 2]
    assert batch.target[0].tolist() == [False] * 3 + [True] * 3
    assert batch.option[0].tolist() == [False] * 3 + [True] * 2 + [False]
    assert batch.ids[10:13, 3].tolist() == [10, 11, 12]
    assert not batch.target[10:].any()


def test_learning_rate_warms_up_and_ends_at_its_final_share() -> None:
    recipe = Recipe()
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(recipe.learning_rate / recipe.warm_up)
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[-1] == pytest.approx(recipe.learning_rate * recipe.final_rate, rel=0.01)
