"""Models in wrappers, decoders without a head and models with another head: routed, or told what to pass instead."""

import numpy as np
import pytest
import torch
from transformers import (
    DogeConfig,
    DogeForCausalLM,
    Llama4Config,
    Llama4ForConditionalGeneration,
    Qwen3MoeForSequenceClassification,
)

from vmoer.architectures import architecture_of
from vmoer.attach import bayesianize
from vmoer.errors import UnsupportedModelError
from vmoer.forward.recorder import record
from vmoer.testing import hooks_of, tiny_batch, tiny_model, trace_of


def test_a_decoder_without_its_head_is_recorded_as_within_the_model():
    model = tiny_model("Qwen3MoeForCausalLM")
    whole, alone = trace_of(model, tiny_batch()), trace_of(model.model, tiny_batch())
    assert alone.layers.tolist() == whole.layers.tolist()
    assert np.array_equal(alone.expert_index, whole.expert_index)
    assert np.array_equal(alone.gate_weight, whole.gate_weight)
    assert hooks_of(model) == 0


def test_bayesian_routers_route_a_decoder_without_its_head():
    model = tiny_model("Glm4MoeForCausalLM")
    with torch.no_grad():
        native = model.model(**tiny_batch()).last_hidden_state
        with bayesianize(model, "mfvr", samples=3, seed=5):
            within = model(**tiny_batch(), output_hidden_states=True).hidden_states[-1]
        with bayesianize(model.model, "mfvr", samples=3, seed=5):
            alone = model.model(**tiny_batch()).last_hidden_state
    assert torch.equal(alone, within)
    assert not torch.equal(alone, native)


def test_one_decoder_is_not_tapped_twice():
    """A recorder on the decoder alone would see the native choice beneath the routers on the whole model."""
    model = tiny_model("OlmoeForCausalLM")
    with bayesianize(model, "mfvr"), pytest.raises(UnsupportedModelError, match="part of a OlmoeForCausalLM"):
        record(model.model).__enter__()
    assert len(trace_of(model.model, tiny_batch())) == 15


def test_a_classifier_on_a_known_decoder_is_recorded():
    config = tiny_model("Qwen3MoeForCausalLM").config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3MoeForSequenceClassification(config).eval()
    trace = trace_of(model, tiny_batch())
    assert trace.layers.tolist() == [0, 2]
    seen = {}
    router = model.model.layers[0].mlp.gate
    hook = router.register_forward_hook(lambda _module, _args, output: seen.update(index=output[2]))
    with torch.no_grad():
        model(**tiny_batch())
    hook.remove()
    real = tiny_batch()["attention_mask"].reshape(-1).bool()
    assert np.array_equal(np.sort(trace.expert_index[:, 0]), np.sort(seen["index"][real].numpy()))


def test_a_parallel_wrapper_says_what_to_pass():
    model = torch.nn.DataParallel(tiny_model("OlmoeForCausalLM"))
    with pytest.raises(UnsupportedModelError, match=r"DataParallel wraps the model .* give its `\.module`"):
        record(model).__enter__()
    with pytest.raises(UnsupportedModelError, match=r"DataParallel wraps the model .* give its `\.module`"):
        architecture_of(model)


def test_a_model_that_sees_images_says_how_to_load_its_text_model():
    with torch.device("meta"):
        model = Llama4ForConditionalGeneration(
            Llama4Config(
                text_config={"num_hidden_layers": 1, "hidden_size": 64, "vocab_size": 128, "intermediate_size": 8},
                vision_config={"num_hidden_layers": 1},
            )
        )
    with pytest.raises(UnsupportedModelError, match="load it as Llama4ForCausalLM"):
        architecture_of(model)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_family_with_sparse_and_dense_models_is_refused_for_what_the_model_is(sparse):
    config = DogeConfig(
        is_moe=sparse,
        num_experts=16,
        num_experts_per_tok=4,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    with torch.device("meta"):
        model = DogeForCausalLM(config)
    reason = "no decision belongs to one token" if sparse else "DogeForCausalLM is dense"
    with pytest.raises(UnsupportedModelError, match=reason):
        architecture_of(model)


def test_doge_mixes_the_logits_of_tokens_as_its_refusal_says():
    """What the first token's router logits are depends on whether a second token is there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = (
            DogeForCausalLM(
                DogeConfig(
                    is_moe=True,
                    num_experts=16,
                    num_experts_per_tok=2,
                    vocab_size=64,
                    hidden_size=32,
                    intermediate_size=16,
                    num_hidden_layers=1,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                )
            )
            .model.layers[0]
            .mlp.eval()
        )
        hidden = torch.randn(1, 2, 32)
    with torch.no_grad():
        alone, together = block(hidden[:, :1])[0], block(hidden)[0][:, :1]
    assert not torch.allclose(alone, together, atol=1e-3)
