"""Dense models cut into mixtures of experts: what must stay exactly as it was, and what must be refused."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from vmoer.errors import UnsupportedModelError
from vmoer.models.upcycle import Split, apply_split, balanced_kmeans, expert_norms, find_split, fit_router, upcycle

LAYOUT = {"n_experts": 8, "top_k": 3, "shared_size": 32}


def tiny(model_class=LlamaForCausalLM, config_class=LlamaConfig, **overrides):
    settings = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
        **overrides,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config_class(**settings)).eval()


def tokens(n=24, length=16):
    return torch.randint(97, (n, length), generator=torch.Generator().manual_seed(1))


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def with_uniform_gates(split):
    return Split(split.top_k, split.shared, split.experts, torch.zeros_like(split.router))


@pytest.mark.parametrize("shared_size", [0, 32])
@pytest.mark.parametrize("tie", [True, False])
def test_all_experts_with_equal_gates_compute_the_dense_model(shared_size, tie):
    dense = tiny(tie_word_embeddings=tie)
    split = find_split(dense, tokens(), n_experts=8, top_k=8, shared_size=shared_size)
    moe = apply_split(dense, with_uniform_gates(split))
    ids = tokens(4)
    torch.testing.assert_close(logits(moe, ids), logits(dense, ids), atol=2e-5, rtol=2e-5)


def test_a_head_size_of_its_own_and_mistral_are_converted_exactly():
    dense = tiny(MistralForCausalLM, MistralConfig, head_dim=16, sliding_window=None)
    moe = apply_split(dense, with_uniform_gates(find_split(dense, tokens(), n_experts=8, top_k=8, shared_size=32)))
    ids = tokens(4)
    torch.testing.assert_close(logits(moe, ids), logits(dense, ids), atol=2e-5, rtol=2e-5)


def test_each_neuron_has_exactly_one_place():
    split = find_split(tiny(), tokens(), **LAYOUT)
    assert split.shared.shape == (3, 32)
    assert split.experts.shape == (3, 8, 8)
    assert split.router.shape == (3, 8, 32)
    places = torch.cat([split.shared, split.experts.flatten(1)], dim=1).sort(dim=1).values
    assert torch.equal(places, torch.arange(96, dtype=places.dtype).expand(3, 96))


def test_the_shared_neurons_are_those_that_contribute_most():
    dense = tiny()
    with torch.no_grad():
        dense.model.layers[1].mlp.down_proj.weight[:, 40:72] *= 100
    assert find_split(dense, tokens(), **LAYOUT).shared[1].tolist() == list(range(40, 72))


def test_the_converted_model_declares_its_layout_and_ties_its_embeddings():
    moe = upcycle(tiny(), tokens(), **LAYOUT)
    config = moe.config
    assert type(moe).__name__ == "GraniteMoeSharedForCausalLM"
    assert (config.num_local_experts, config.num_experts_per_tok) == (8, 3)
    assert (config.intermediate_size, config.shared_intermediate_size) == (8, 32)
    assert config.attention_multiplier == 8**-0.5
    assert moe.lm_head.weight is moe.model.embed_tokens.weight


def test_saved_and_loaded_again_it_is_bit_equal(tmp_path):
    moe = apply_split(tiny(), find_split(tiny(), tokens(), **LAYOUT), dtype=torch.bfloat16)
    moe.save_pretrained(tmp_path)
    again = type(moe).from_pretrained(tmp_path, dtype=torch.bfloat16)
    before, after = moe.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ids = tokens(4)
    assert torch.equal(logits(moe, ids), logits(again.eval(), ids))


def test_a_stored_split_is_the_same_split(tmp_path):
    split = find_split(tiny(), tokens(), **LAYOUT)
    split.save(tmp_path / "split.safetensors")
    again = Split.load(tmp_path / "split.safetensors")
    assert again.top_k == split.top_k
    for name in ("shared", "experts", "router"):
        assert torch.equal(getattr(again, name), getattr(split, name))


def test_the_seed_decides_the_split_and_nothing_else_does():
    first = find_split(tiny(), tokens(), **LAYOUT, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        same = find_split(tiny(), tokens(), **LAYOUT, seed=0)
    other = find_split(tiny(), tokens(), **LAYOUT, seed=1)
    assert torch.equal(first.experts, same.experts)
    assert torch.equal(first.router, same.router)
    assert not torch.equal(first.experts, other.experts)


def test_the_dense_model_and_the_global_random_state_are_left_alone():
    dense = tiny()
    weights = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    before = logits(dense, tokens(2))
    state = torch.random.get_rng_state()
    upcycle(dense, tokens(), **LAYOUT)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(before, logits(dense, tokens(2)))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in dense.state_dict().items())


def test_progress_counts_the_layers():
    seen = []
    find_split(tiny(), tokens(), **LAYOUT, progress=lambda *step: seen.append(step))
    assert seen == [("convert", 1, 3), ("convert", 2, 3), ("convert", 3, 3)]


def test_fitted_routing_is_closer_to_the_dense_model_than_its_opposite():
    dense = tiny()
    split = find_split(dense, tokens(64), **LAYOUT)
    opposite = Split(split.top_k, split.shared, split.experts, -split.router)
    ids = tokens(16)
    target = logits(dense, ids).log_softmax(-1)

    def distance(moe):
        return torch.nn.functional.kl_div(
            logits(moe, ids).log_softmax(-1), target, log_target=True, reduction="batchmean"
        )

    assert distance(apply_split(dense, split)) < 0.8 * distance(apply_split(dense, opposite))


def test_clusters_are_found_and_equally_large():
    generator = torch.Generator().manual_seed(3)
    centres = torch.eye(4, 20)
    owner = torch.arange(24) % 4
    points = centres[owner] * 5 + 0.1 * torch.rand(24, 20, generator=generator)
    clusters = balanced_kmeans(points, 4, torch.Generator().manual_seed(2))
    assert sorted(clusters.flatten().tolist()) == list(range(24))
    assert all(len(set(owner[members].tolist())) == 1 for members in clusters)


def test_clusters_stay_equally_large_when_all_points_want_the_same_one():
    clusters = balanced_kmeans(torch.ones(12, 5), 3, torch.Generator().manual_seed(0))
    assert sorted(clusters.flatten().tolist()) == list(range(12))


def test_expert_norms_are_the_lengths_of_the_experts_outputs():
    generator = torch.Generator().manual_seed(0)
    neurons, down = torch.randn(7, 12, generator=generator), torch.randn(5, 12, generator=generator)
    experts = torch.randperm(12, generator=generator).view(3, 4)
    expected = torch.stack([(neurons[:, part] @ down[:, part].T).norm(dim=1) for part in experts], 1)
    torch.testing.assert_close(expert_norms(neurons, down, experts), expected)


def test_the_router_learns_the_order_at_the_scale_asked_for():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(400, 16, generator=generator)
    norms = 5 + hidden @ torch.randn(16, 6, generator=generator) / 4
    weight = fit_router(hidden, norms, 0.05)
    logits_ = hidden @ weight.T
    assert logits_.std().item() == pytest.approx(0.05, rel=1e-4)
    assert (logits_.argmax(1) == norms.argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize(
    ("model", "layout", "message"),
    [
        (lambda: tiny(attention_bias=True), LAYOUT, "biases"),
        (lambda: tiny(MistralForCausalLM, MistralConfig, sliding_window=8), LAYOUT, "sliding-window"),
        (lambda: GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=97)), LAYOUT, "gpt2"),
        (tiny, {**LAYOUT, "shared_size": 30}, "66"),
        (tiny, {**LAYOUT, "shared_size": 96}, "leave 0"),
        (tiny, {**LAYOUT, "top_k": 9}, "between 1 and n_experts = 8"),
    ],
)
def test_what_cannot_be_converted_exactly_is_refused_in_a_sentence(model, layout, message):
    with torch.random.fork_rng():
        dense = model()
    with pytest.raises(UnsupportedModelError, match=message):
        find_split(dense, tokens(), **layout)


def test_a_split_of_another_model_is_refused():
    split = find_split(tiny(), tokens(), **LAYOUT)
    with pytest.raises(UnsupportedModelError, match="made for another model"):
        apply_split(tiny(num_hidden_layers=2), split)
