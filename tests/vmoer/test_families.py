"""What differs between families: scores and gates apart, refusals by name, and what wraps a model."""

import warnings

import numpy as np
import pytest
import torch
from transformers import (
    DeepseekV4Config,
    DeepseekV4ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteMoeHybridForCausalLM,
    JetMoeConfig,
    JetMoeForCausalLM,
    KimiLinearForCausalLM,
    OlmoeForCausalLM,
)

from vmoer.architectures import architecture_of, architectures
from vmoer.attach import bayesianize, load_routers
from vmoer.errors import UnsupportedModelError
from vmoer.forward.hooks import tap_of
from vmoer.forward.recorder import record
from vmoer.testing import LENGTHS, tiny_batch, tiny_model, trace_of

BAYESIAN = [name for name in architectures.names() if not architectures.get(name).bayesian_refusal]
SIGMOID = ["DeepseekV3ForCausalLM", "Glm4MoeForCausalLM", "Llama4ForCausalLM"]


@pytest.mark.parametrize("family", SIGMOID)
def test_selection_scores_and_gates_are_recorded_apart(family):
    """Sorted by what selected; the gate is the sigmoid of the logit, not a function of the selection score alone."""
    model = tiny_model(family)
    trace = trace_of(model, tiny_batch())
    scores = trace.selection_score
    assert scores.shape == trace.gate_weight.shape
    assert (np.diff(scores, axis=-1) <= 0).all()
    assert not np.allclose(scores, trace.gate_weight)
    assert trace.take(np.array([0, 1])).selection_score.shape[0] == 2
    assert trace.decisions()["selection_score"].shape == trace.decisions()["gate_weight"].shape


def test_the_correction_bias_selects_but_never_weights():
    model = tiny_model("DeepseekV3ForCausalLM")
    plain = trace_of(model, tiny_batch())
    site = tap_of(model).sites[0]
    with torch.no_grad():
        site.router.e_score_correction_bias[5] += 100.0
    biased = trace_of(model, tiny_batch())
    first = biased.layers.tolist().index(site.layer)
    assert (biased.expert_index[:, first, 0] == 5).all()
    assert not (plain.expert_index[:, first, 0] == 5).all()
    assert biased.selection_score[:, first, 0].min() > 99
    assert biased.gate_weight[:, first].max() < 2.6  # sums to the scaling factor, 2.5


def test_families_whose_gates_follow_from_the_logits_record_them_once():
    trace = trace_of(tiny_model("OlmoeForCausalLM"), tiny_batch())
    assert trace.selection_score is None
    assert trace.decisions()["selection_score"] is None


@pytest.mark.parametrize(("experts", "k"), [(512, 16), (8, 8), (4, 1)])
def test_many_experts_all_experts_and_one(experts, k):
    model = tiny_model("Qwen3MoeForCausalLM", num_experts=experts, num_experts_per_tok=k, intermediate_size=8)
    with bayesianize(model, "fcvr", samples=2, trunk_width=2), record(model) as recorder, torch.no_grad():
        model(**tiny_batch())
    trace = recorder.trace
    assert trace.expert_index.dtype == np.uint16
    assert trace.expert_index.shape[-1] == k
    assert trace.expert_index.max() < experts
    assert all(len(set(row)) == k for row in trace.expert_index.reshape(-1, k).tolist())


def test_a_dense_model_is_refused_with_what_was_looked_for():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(UnsupportedModelError, match="GPT2LMHeadModel is dense: none of its modules holds experts"):
        architecture_of(model)


def test_a_hash_router_is_refused_by_name():
    with torch.device("meta"):
        model = DeepseekV4ForCausalLM(DeepseekV4Config(num_hidden_layers=4))
    with pytest.raises(UnsupportedModelError, match=r"looking the token id up in a table .*DeepseekV4HashRouter"):
        architecture_of(model)


def test_an_unknown_family_is_refused_with_its_router():
    with torch.device("meta"):
        model = type("NewMoeForCausalLM", (JetMoeForCausalLM,), {})(JetMoeConfig(num_hidden_layers=1))
    with pytest.raises(UnsupportedModelError, match=r"NewMoeForCausalLM has routers \(.*JetMoeTopKGating.* not know"):
        architecture_of(model)


def test_a_gate_of_the_attention_is_no_router():
    """Kimi-Linear's attention has forget gates; of an unknown family with such gates the router is named."""
    config = tiny_model("KimiLinearForCausalLM").config
    with torch.device("meta"):
        model = type("NewMoeForCausalLM", (KimiLinearForCausalLM,), {})(config)
    with pytest.raises(UnsupportedModelError, match=r"\(model\.layers\.1\.mlp\.gate is a KimiLinearTopkRouter\)"):
        architecture_of(model)


def test_experts_without_a_known_router_are_not_called_dense():
    config = tiny_model("OlmoeForCausalLM").config
    with torch.device("meta"):
        model = type("NewMoeForCausalLM", (OlmoeForCausalLM,), {})(config)
        for layer in model.model.layers:
            layer.mlp.gate = torch.nn.Linear(32, 8)
    with pytest.raises(UnsupportedModelError, match=r"has experts .* but no router class this version knows"):
        architecture_of(model)


def test_a_dense_checkpoint_of_a_sparse_family_is_refused():
    family = "GraniteMoeHybridForCausalLM"
    config = architectures.get(family)().tiny_config(family, num_local_experts=0)
    with pytest.raises(UnsupportedModelError, match="has no MoE layer: every block is dense"):
        tap_of(GraniteMoeHybridForCausalLM(config))


def test_sparsemixer_records_and_refuses_bayesian_routers():
    model = tiny_model("PhimoeForCausalLM")
    assert len(trace_of(model, tiny_batch())) == 15
    with pytest.raises(UnsupportedModelError, match="sparsemixer"):
        bayesianize(model, "temperature")


@pytest.mark.parametrize("family", SIGMOID)
def test_the_closed_form_is_refused_where_experts_are_sigmoids(family):
    with pytest.raises(UnsupportedModelError, match="expectation of a softmax"):
        bayesianize(tiny_model(family), "mfvr", estimator="closed-form")


@pytest.mark.parametrize("family", BAYESIAN)
def test_lora_and_routers_live_on_one_model(family):
    """Routers on a peft-wrapped model route its own forward pass, and both come off bit-exactly."""
    peft = pytest.importorskip("peft", reason="peft is an optional companion")
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)  # peft asks transformers so
    model = tiny_model(family)
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    target = next(name for name in ("o_proj", "out_proj", "lm_head") if name in names)
    with torch.no_grad():
        plain = model(**tiny_batch()).logits
        wrapped = peft.get_peft_model(
            model, peft.LoraConfig(r=2, target_modules=rf"(?!.*(visual|vision|audio)).*{target}")
        ).eval()
        native = wrapped(**tiny_batch()).logits
        with bayesianize(wrapped, "temperature", temperature=3.0), record(wrapped) as recorder:
            bayesian = wrapped(**tiny_batch()).logits
        assert not torch.equal(native, bayesian)
        assert torch.equal(wrapped(**tiny_batch()).logits, native)
        # peft leaves the weights frozen, and torch multiplies frozen ones by another kernel (seen in Mamba's out_proj)
        restored = wrapped.unload().requires_grad_(True)(**tiny_batch()).logits
    assert torch.equal(restored, plain)
    assert len(recorder.trace) == sum(LENGTHS)


@pytest.mark.parametrize("family", ["OlmoeForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM"])
def test_offloaded_weights_are_fetched(family, tmp_path):
    """accelerate keeps the weights elsewhere (meta parameters): routed, saved and loaded as if they were here."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate comes with peft")
    model = tiny_model(family)
    with torch.no_grad():
        native = model(**tiny_batch()).logits
        with bayesianize(model, "mfvr", samples=3) as handle:
            here = model(**tiny_batch()).logits
            handle.save(tmp_path / "here")
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        assert all(parameter.is_meta for parameter in tap_of(model).sites[0].router.parameters())
        assert torch.equal(model(**tiny_batch()).logits, native)
        with bayesianize(model, "mfvr", samples=3) as handle:
            assert torch.equal(model(**tiny_batch()).logits, here)
            handle.save(tmp_path / "offloaded")
        with load_routers(model, tmp_path / "here"):
            assert torch.equal(model(**tiny_batch()).logits, here)
    assert (tmp_path / "here/routers.json").read_bytes() == (tmp_path / "offloaded/routers.json").read_bytes()


def test_a_compiled_model_is_refused():
    """Compiled code leaves out hooks that come later, so routers would silently do nothing."""
    model = tiny_model("OlmoeForCausalLM")
    for compiled in (torch.compile(model, backend="eager"), _compiled_in_place(tiny_model("OlmoeForCausalLM"))):
        for use in (lambda it=compiled: bayesianize(it, "fcvr"), lambda it=compiled: record(it).__enter__()):
            with pytest.raises(UnsupportedModelError, match=r"torch\.compile leaves out hooks"):
                use()
    assert len(trace_of(model, tiny_batch())) == sum(LENGTHS)


def _compiled_in_place(model):
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("family", ["DeepseekV3ForCausalLM", "JambaForCausalLM"])
def test_gradient_checkpointing_is_refused_with_routers_and_recorded_without(family):
    model = tiny_model(family)
    model.activation_checkpointing_enable()
    model.train()
    with bayesianize(model, "mfvr"), pytest.raises(UnsupportedModelError, match="checkpointing_disable"):
        model(**tiny_batch())
    with record(model) as recorder:
        model(**tiny_batch(), use_cache=False).logits.sum().backward()
    assert len(recorder.trace) == sum(LENGTHS)
