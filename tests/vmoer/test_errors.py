"""Wrong models, names and numbers get one sentence that says what would be right."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import vmoer
from vmoer.attach import bayesianize
from vmoer.errors import UnknownNameError, UnsupportedModelError, VmoerError
from vmoer.registry import Registry
from vmoer.testing import tiny_model


def test_a_dense_model_is_refused_by_name():
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    for use in (lambda: bayesianize(model, "fcvr"), lambda: vmoer.record(model).__enter__()):
        with pytest.raises(UnsupportedModelError, match=r"LlamaForCausalLM is dense.*docs/support\.md lists"):
            use()


def test_a_model_whose_every_block_is_dense_is_refused():
    model = tiny_model()
    for block in model.model.layers:
        del block.block_sparse_moe
    with pytest.raises(UnsupportedModelError, match="has no MoE layer"):
        bayesianize(model, "fcvr")


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("fcrv", "Unknown method 'fcrv'. Did you mean 'fcvr'. Known: .*deterministic.*temperature"),
        ("", "Unknown method ''"),
        ("something else entirely", "Unknown method 'something else entirely'. Known"),
    ],
)
def test_unknown_methods_suggest_the_nearest(method, sentence):
    with pytest.raises(UnknownNameError, match=sentence):
        bayesianize(tiny_model(), method)


def test_unknown_estimator():
    with pytest.raises(UnknownNameError, match=r"Unknown estimator 'predictiv'. Did you mean 'predictive'"):
        bayesianize(tiny_model(), "fcvr", estimator="predictiv")


@pytest.mark.parametrize("samples", [0, -1, True, 2.0, "35", None])
def test_numbers_of_samples_that_are_none(samples):
    with pytest.raises(VmoerError, match="whole number of 1 or more"):
        bayesianize(tiny_model(), "fcvr", samples=samples)


def test_a_refused_call_leaves_the_model_free():
    model = tiny_model()
    for bad in ({"samples": 0}, {"layers": [9]}, {"prior_std": -1}, {"method": "nope"}):
        with pytest.raises(VmoerError):
            bayesianize(model, **{"method": "fcvr", **bad})
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    bayesianize(model, "fcvr").restore()


def test_unknown_public_name():
    with pytest.raises(AttributeError, match="has no attribute 'bayesianise'"):
        _ = vmoer.bayesianise


def test_public_names_all_resolve():
    assert set(vmoer.__all__) <= set(dir(vmoer))
    for name in vmoer.__all__:
        assert getattr(vmoer, name).__name__ == name


def test_a_name_is_registered_once():
    registry: Registry[object] = Registry("thing", "no.such.group", {})
    registry.register("one")(type("One", (), {}))
    with pytest.raises(ValueError, match="'one' is already registered"):
        registry.register("one")(type("Other", (), {}))
    assert registry.names() == ["one"]
