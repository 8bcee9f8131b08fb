"""What a cache forgets, the noise forgets: crops, reorders, copies, drafts, beams and packed sequences."""

import copy
import weakref

import pytest
import torch
from transformers import DynamicCache, StaticCache

import vmoer
from vmoer.errors import UnsupportedModelError
from vmoer.testing import ATOL, tiny_batch, tiny_model, tiny_row, trace_of

BAYESIAN = {"method": "mfvr", "samples": 3}
TEXT = torch.tensor([[7, 8, 9, 7, 8, 9, 7, 8, 9, 10, 7, 8]])
GREEDY = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0, "max_new_tokens": 8}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def model():
    return tiny_model("MixtralForCausalLM")


def last_logits(model, ids):
    """What a single pass without a cache says after each row."""
    return model(input_ids=ids, use_cache=False).logits[:, -1]


def test_a_cropped_cache_continues_as_if_the_rejected_tokens_had_never_been(model):
    cache = DynamicCache(config=model.config)
    with vmoer.bayesianize(model, **BAYESIAN):
        model(input_ids=TEXT, past_key_values=cache)
        cache.crop(-4)
        found = model(input_ids=torch.tensor([[50, 51]]), past_key_values=cache).logits[:, -1]
        expected = last_logits(model, torch.cat([TEXT[:, :-4], torch.tensor([[50, 51]])], dim=1))
    assert torch.allclose(found, expected, atol=ATOL)


@pytest.mark.parametrize("return_dict", [True, False])
def test_a_cache_that_the_model_made_itself_is_continued(model, return_dict):
    with vmoer.bayesianize(model, **BAYESIAN):
        first = model(input_ids=TEXT[:, :-1], use_cache=True, return_dict=return_dict)
        cache = first.past_key_values if return_dict else first[1]
        found = model(input_ids=TEXT[:, -1:], past_key_values=cache).logits[:, -1]
        assert torch.allclose(found, last_logits(model, TEXT), atol=ATOL)


@pytest.mark.parametrize("change", ["reorder", "select", "repeat"])
def test_rows_that_change_places_take_their_noise_along(model, change):
    ids = torch.stack([TEXT[0, :6], TEXT[0, 6:]])
    index = {"reorder": [1, 0], "select": [1], "repeat": [0, 0, 1, 1]}[change]
    cache = DynamicCache(config=model.config)
    with vmoer.bayesianize(model, **BAYESIAN):
        model(input_ids=ids, past_key_values=cache)
        if change == "repeat":
            cache.batch_repeat_interleave(2)
        elif change == "select":
            cache.batch_select_indices(torch.tensor(index))
        else:
            cache.reorder_cache(torch.tensor(index))
        token = torch.full((len(index), 1), 42)
        found = model(input_ids=token, past_key_values=cache).logits[:, -1]
        expected = last_logits(model, torch.cat([ids[index], token], dim=1))
    assert torch.allclose(found, expected, atol=ATOL)


def test_a_copied_cache_goes_its_own_way(model):
    cache = DynamicCache(config=model.config)
    with vmoer.bayesianize(model, **BAYESIAN):
        model(input_ids=TEXT, past_key_values=cache)
        twin = copy.deepcopy(cache)
        twin.crop(-3)
        for kept, tokens in ((cache, TEXT), (twin, TEXT[:, :-3])):
            found = model(input_ids=torch.tensor([[60]]), past_key_values=kept).logits[:, -1]
            expected = last_logits(model, torch.cat([tokens, torch.tensor([[60]])], dim=1))
            assert torch.allclose(found, expected, atol=ATOL)


def test_a_cache_dies_with_its_last_reference(model):
    cache = DynamicCache(config=model.config)
    with vmoer.bayesianize(model, **BAYESIAN):
        model(input_ids=TEXT, past_key_values=cache)
    gone = weakref.ref(cache)
    del cache
    assert gone() is None


@pytest.mark.parametrize("crop_first", [False, True])
def test_a_cache_filled_unwatched_is_refused_where_noise_is_drawn(model, crop_first):
    cache = DynamicCache(config=model.config)
    if crop_first:
        with vmoer.bayesianize(model, **BAYESIAN):
            model(input_ids=TEXT, past_key_values=cache)
        cache.crop(-5)
        model(input_ids=TEXT[:, :5] + 20, past_key_values=cache)
    else:
        model(input_ids=TEXT, past_key_values=cache)
    token = {"input_ids": torch.tensor([[60]]), "past_key_values": cache}
    with vmoer.bayesianize(model, **BAYESIAN), pytest.raises(UnsupportedModelError, match="This cache holds tokens"):
        model(**token)
    with vmoer.record(model) as recorder:
        model(**token)
    assert recorder.trace.position.tolist() == [13]


@pytest.mark.parametrize("method", ["mfvr", "temperature", "deterministic"])
@pytest.mark.parametrize("window", [None, 6])
def test_greedy_text_does_not_depend_on_drafts_or_caches(method, window):
    model = tiny_model("MixtralForCausalLM", sliding_window=window)
    assistant = tiny_model("MixtralForCausalLM", seed=1, num_hidden_layers=1)
    with vmoer.bayesianize(model, method, samples=3):
        texts = [
            model.generate(TEXT, attention_mask=torch.ones_like(TEXT), **GREEDY, **options).tolist()
            for options in ({}, {"prompt_lookup_num_tokens": 3}, {"assistant_model": assistant}, {"use_cache": False})
        ]
    assert texts[1:] == texts[:1] * 3


@pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": 3}, {"use_cache": False}, {"num_beams": 2}, {}])
@pytest.mark.parametrize("bayesian", [False, True])
def test_each_kept_token_is_recorded_once_as_a_full_pass_decides(model, options, bayesian):
    context = vmoer.bayesianize(model, **BAYESIAN) if bayesian else vmoer.record(model)
    with context:
        with vmoer.record(model) as recorder:
            out = model.generate(TEXT, attention_mask=torch.ones_like(TEXT), **GREEDY, **options)
        whole = trace_of(model, {"input_ids": out[:, :-1]})
    trace = recorder.trace
    assert trace.token_id.tolist() == out[0, :-1].tolist()
    assert trace.position.tolist() == list(range(out.shape[1] - 1))
    assert trace.decode.tolist() == [False] * TEXT.shape[1] + [True] * 7
    assert trace.example.tolist() == [0] * len(trace)
    clear = trace.top_k_margin > ATOL
    assert (trace.expert_index == whole.expert_index)[clear].all()


def test_returned_beams_are_examples_of_their_prompt(model):
    batch = tiny_batch((5, 3))
    with vmoer.record(model) as recorder:
        out = model.generate(
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            num_beams=3,
            num_return_sequences=2,
            **{**GREEDY, "max_new_tokens": 3},
        )
        model(**tiny_row(0))
    trace = recorder.trace
    for number, (sequence, length) in enumerate(zip(out, (5, 5, 3, 3), strict=True)):
        part = trace.take(trace.example == number)
        assert part.token_id.tolist() == sequence[5 - length : -1].tolist()
        assert part.position.tolist() == list(range(length + 2))
    assert (trace.example == 4).sum() == 7  # what is recorded after it goes on counting


def test_tokens_after_the_end_of_a_row_are_not_recorded(model):
    """A row that ended is fed padding until the others end; alone it would not be."""
    batch = tiny_batch((5, 3))
    inputs = (batch["input_ids"], batch["attention_mask"])
    free = model.generate(inputs[0], attention_mask=inputs[1], **GREEDY)
    end = int(free[1, 7])  # the third new token of the second row
    assert end not in free[0, 5:].tolist()
    with vmoer.record(model) as recorder:
        model.generate(inputs[0], attention_mask=inputs[1], **{**GREEDY, "eos_token_id": end})
        model.generate(inputs[0][1:, 2:], **{**GREEDY, "eos_token_id": end})
    trace = recorder.trace
    parts = [trace.take(trace.example == number) for number in (1, 2)]
    assert parts[0].token_id.tolist() == parts[1].token_id.tolist()
    assert parts[0].position.max() == 4


def test_generation_from_embeddings_and_from_a_kept_prompt_is_recorded(model):
    mask = torch.ones_like(TEXT)
    embeds = model.get_input_embeddings()(TEXT)
    cache = DynamicCache(config=model.config)
    with vmoer.record(model) as recorder:
        out = model.generate(inputs_embeds=embeds, attention_mask=mask, **GREEDY)
        model(input_ids=TEXT[:, :-1], past_key_values=cache)
        again = model.generate(TEXT, attention_mask=mask, past_key_values=copy.deepcopy(cache), **GREEDY)
    trace = recorder.trace
    assert again[0, 12:].tolist() == out[0].tolist()
    first, third = trace.take(trace.example == 0), trace.take(trace.example == 2)
    assert first.token_id.tolist() == [-1] * 12 + out[0, :-1].tolist()
    assert third.token_id.tolist() == again[0, 11:-1].tolist()
    assert third.position.tolist() == list(range(11, 19))


def test_generate_is_the_models_own_again(model):
    own = model.generate
    with vmoer.record(model), vmoer.record(model):
        assert "generate" in vars(model)
    assert "generate" not in vars(model)
    assert model.generate == own


@pytest.mark.parametrize("window", [None, 6])
def test_a_static_cache_by_hand_and_by_name(window):
    """A static cache is longer than what it holds; where all attention slides its mask does not say what is real."""
    model = tiny_model("MixtralForCausalLM", sliding_window=window)
    with vmoer.bayesianize(model, **BAYESIAN):
        expected = last_logits(model, TEXT)
        cache = StaticCache(config=model.config, max_cache_len=20)
        model(input_ids=TEXT[:, :-1], past_key_values=cache)
        found = model(input_ids=TEXT[:, -1:], past_key_values=cache).logits[:, -1]
        assert torch.allclose(found, expected, atol=ATOL)
        arguments = {"attention_mask": torch.ones_like(TEXT), "cache_implementation": "static", **GREEDY}
        if window is None:
            plain = model.generate(TEXT, attention_mask=torch.ones_like(TEXT), **GREEDY)
            assert model.generate(TEXT, **arguments).tolist() == plain.tolist()
            assert model.generate(TEXT, **arguments).tolist() == plain.tolist()  # the cache is reset and used again
        else:
            with pytest.raises(UnsupportedModelError, match="leave cache_implementation at its default"):
                model.generate(TEXT, **arguments)


def test_a_packed_sequence_meets_the_noise_that_it_meets_alone(model):
    rows = [[5, 9, 33, 70], [7, 8, 9, 10, 11, 12], [5, 9]]
    packed = {
        "input_ids": torch.tensor([[token for row in rows for token in row]]),
        "position_ids": torch.tensor([[i for row in rows for i in range(len(row))]]),
        "use_cache": False,
    }
    with vmoer.bayesianize(model, **BAYESIAN), vmoer.record(model) as recorder:
        found = model(**packed).logits[0].split([len(row) for row in rows])
        for row, logits in zip(rows, found, strict=True):
            assert torch.allclose(model(input_ids=torch.tensor([row])).logits[0], logits, atol=ATOL)
    trace = recorder.trace
    assert trace.example.tolist()[:12] == [0] * 4 + [1] * 6 + [2] * 2
    assert trace.position.tolist()[:12] == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1]
    assert trace.example.tolist()[12:] == [3] * 4 + [4] * 6 + [5] * 2


@pytest.mark.parametrize(
    "arguments", [{}, {"use_cache": True}, {"attention_mask": torch.ones(1, 6, dtype=torch.long), "use_cache": False}]
)
def test_packed_sequences_that_the_model_would_mix_are_refused(model, arguments):
    packed = {"input_ids": TEXT[:, :6], "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])}
    with vmoer.record(model), pytest.raises(UnsupportedModelError, match="position_ids restart within a row"):
        model(**packed, **arguments)


def test_positions_that_padding_repeats_are_no_packing(model):
    batch = tiny_batch((5, 3))
    batch["position_ids"] = batch["position_ids"].masked_fill(batch["attention_mask"] == 0, 1)
    with vmoer.record(model) as recorder:
        model(**batch)
    assert recorder.trace.example.tolist() == [0] * 5 + [1] * 3


def test_a_mask_that_is_no_causal_one_is_refused(model):
    tree = torch.tril(torch.ones(6, 6, dtype=torch.bool))
    tree[4, 3] = tree[5, 3] = False  # two drafts beside each other
    with vmoer.record(model):
        with pytest.raises(UnsupportedModelError, match="is not a causal one"):
            model(input_ids=TEXT[:, :6], attention_mask=tree[None, None])
        with pytest.raises(UnsupportedModelError, match="4 columns, but there are 0 tokens in the cache and 6 new"):
            model(input_ids=TEXT[:, :6], attention_mask=torch.ones(1, 4))
