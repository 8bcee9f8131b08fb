"""Low-rank adapters on the routers themselves: what the adapted router decides is recorded, and made Bayesian."""

import copy

import numpy as np
import pytest
import torch

from vmoer.architectures.fingerprint import fingerprint
from vmoer.attach import bayesianize, load_routers
from vmoer.errors import VmoerError
from vmoer.forward.hooks import tap_of
from vmoer.testing import assert_same_decisions, hooks_of, tiny_batch, tiny_model, trace_of

peft = pytest.importorskip("peft", reason="peft is an optional companion")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::RuntimeWarning")

FAMILIES = {
    "MixtralForCausalLM": "mlp.gate.weight",
    "OlmoeForCausalLM": "mlp.gate.weight",
    "Qwen3MoeForCausalLM": "mlp.gate.weight",
    "DeepseekV3ForCausalLM": "mlp.gate.weight",
    "Glm4MoeForCausalLM": "mlp.gate.weight",
    "GraniteMoeForCausalLM": "block_sparse_moe.router.weight",
    "MiniMaxM2ForCausalLM": "mlp.gate.weight",
    "Llama4ForCausalLM": "feed_forward.router.weight",
}


def _adapted(family, **targets):
    """Return a model with an adapter that changes its routers, and the model without it."""
    model = tiny_model(family)
    plain = copy.deepcopy(model)
    targets = targets or {"target_modules": [], "target_parameters": [FAMILIES[family]]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=32, init_lora_weights=False, **targets))
    return wrapped.eval(), plain


@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapted_router_is_the_one_recorded(family):
    """The same decisions as of a model whose router weights are W + B A α/r, computed by hand."""
    wrapped, plain = _adapted(family)
    for ours, theirs in zip(tap_of(wrapped).sites, tap_of(plain).sites, strict=True):
        adapter = ours.wrapper
        delta = adapter.lora_B["default"].weight @ adapter.lora_A["default"].weight * (32 / 4)
        weight = theirs.router.weight
        with torch.no_grad():
            weight += delta if delta.shape == weight.shape else delta.T
    found = trace_of(wrapped, tiny_batch())
    assert_same_decisions(trace_of(plain, tiny_batch()), found, f"{family} with an adapter on its routers")
    untouched = trace_of(tiny_model(family), tiny_batch())
    assert not np.array_equal(found.expert_index, untouched.expert_index)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_noise_bayesian_routers_are_the_adapted_ones(family):
    wrapped, _ = _adapted(family)
    batch = tiny_batch()
    hooks = hooks_of(wrapped)
    with torch.no_grad():
        native = wrapped(**batch, output_router_logits=True)
        grown = hooks_of(wrapped)  # transformers installs hooks of its own to report router logits
        with bayesianize(wrapped, "mfvr", samples=3) as handle:
            noisy = wrapped(**batch).logits
            handle.scale_noise(0.0)
            quiet = wrapped(**batch, output_router_logits=True)
        after = wrapped(**batch).logits
    assert not torch.equal(noisy, native.logits)
    assert torch.equal(quiet.logits, native.logits)
    for ours, theirs in zip(quiet.router_logits, native.router_logits, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(after, native.logits)
    assert hooks_of(wrapped) == grown >= hooks


def test_an_adapter_on_every_linear_layer_reaches_the_routers_too():
    wrapped, _ = _adapted("OlmoeForCausalLM", target_modules="all-linear")
    assert all(site.wrapper is not None for site in tap_of(wrapped).sites)
    assert len(trace_of(wrapped, tiny_batch())) == 15


def test_routers_copied_by_the_adapter_are_recorded():
    """``modules_to_save`` trains a copy of each router, which routes instead of it."""
    wrapped, _ = _adapted("OlmoeForCausalLM", target_modules=["q_proj"], modules_to_save=["gate"])
    native = trace_of(wrapped, tiny_batch())
    with torch.no_grad():
        for layer in wrapped.get_base_model().model.layers:
            layer.mlp.gate.modules_to_save["default"].weight.neg_()
    turned = trace_of(wrapped, tiny_batch())
    assert not np.array_equal(native.expert_index, turned.expert_index)
    with torch.no_grad():
        before = wrapped(**tiny_batch()).logits
        with bayesianize(wrapped, "mfvr", samples=3) as handle:
            handle.scale_noise(0.0)
            assert torch.equal(wrapped(**tiny_batch()).logits, before)
        assert torch.equal(wrapped(**tiny_batch()).logits, before)


def test_routers_trained_beside_an_adapter_belong_to_the_adapted_model(tmp_path):
    wrapped, plain = _adapted("OlmoeForCausalLM")
    assert fingerprint(tap_of(wrapped).sites) != fingerprint(tap_of(plain).sites)
    with torch.no_grad(), bayesianize(wrapped, "mfvr", samples=3, seed=3) as handle:
        handle.save(tmp_path)
        here = wrapped(**tiny_batch()).logits
    with torch.no_grad(), load_routers(wrapped, tmp_path):
        assert torch.equal(wrapped(**tiny_batch()).logits, here)
    with pytest.raises(VmoerError):
        load_routers(plain, tmp_path)
