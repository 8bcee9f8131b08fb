"""Cost formulas: the published figures, the parameters that exist, and the products a counter sees."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GraniteMoeConfig

from vmoer.attach import bayesianize
from vmoer.measure import macs as efficiency
from vmoer.routers import BayesianRouter, routers
from vmoer.routers.deterministic import DeterministicRouter
from vmoer.scoring.options import score_options
from vmoer.testing import tiny_model, tiny_row

GRANITE_3B = GraniteMoeConfig(
    vocab_size=49155,
    hidden_size=1536,
    intermediate_size=512,
    num_hidden_layers=32,
    num_attention_heads=24,
    num_key_value_heads=8,
    num_local_experts=40,
    num_experts_per_tok=8,
)


def test_granite_3b_figures():
    assert efficiency.model_macs(GRANITE_3B) == pytest.approx(883e6, rel=1e-3)
    full, diagonal = (efficiency.head_of(GRANITE_3B, method) for method in ("fcvr", "mfvr"))
    assert full.macs(35) == pytest.approx(0.976e6, rel=1e-3)
    assert diagonal.macs(35) == pytest.approx(0.668e6, rel=1e-3)
    for layers, percent in ((5, 0.55), (10, 1.11), (32, 3.54)):
        assert 100 * efficiency.extra_share(GRANITE_3B, "fcvr", layers) == pytest.approx(percent, abs=0.006)
    assert 100 * efficiency.extra_share(GRANITE_3B, "mfvr", 10) == pytest.approx(0.76, abs=0.006)
    assert 10 * efficiency.extra_parameters(full) == pytest.approx(9.2e6, rel=0.01)


def test_low_rank_keeps_ten_layers_under_half_a_percent():
    assert 100 * efficiency.extra_share(GRANITE_3B, "fcvr-lowrank", 10) == pytest.approx(0.435, abs=0.001)


@pytest.mark.parametrize("method", routers.names())
def test_parameters_are_those_of_the_router(method):
    model = tiny_model()
    with bayesianize(model, method) as handle:
        expected = sum(parameter.numel() for parameter in handle.head(0).parameters())
    assert efficiency.extra_parameters(efficiency.head_of(model.config, method)) == expected


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("fcvr", {"trunk_width": 3, "trunk": "separate"}),
        ("mfvr", {"trunk_width": 3, "trunk": "shared"}),
        ("fcvr-lowrank", {"rank": 2, "trunk_width": 5}),
        ("der", {"members": 7}),
        ("vtsr", {"trunk_width": 3}),
    ],
)
def test_options_of_a_head_count(method, options):
    model = tiny_model()
    with bayesianize(model, method, **options) as handle:
        head = handle.head(0)
        expected = sum(parameter.numel() for parameter in head.parameters())
        found, default = (efficiency.head_of(model.config, method, given) for given in (head.options(), None))
    assert efficiency.extra_parameters(found) == expected
    assert (found.macs(5), expected) != (default.macs(5), efficiency.extra_parameters(default))


@pytest.mark.parametrize("family", ["GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"])
@pytest.mark.parametrize(
    "method", ["deterministic", "mcdr", "swagr", "der", "laplace", "mfvr", "fcvr", "fcvr-lowrank", "vtsr"]
)
def test_macs_are_those_a_counter_counts(family, method):
    model = tiny_model(family)
    model.set_experts_implementation("grouped_mm")
    model.set_attn_implementation("eager")
    batch, tokens, samples = tiny_row(0), 7, 5
    config = model.config
    scores = config.num_hidden_layers * 2 * tokens * config.hidden_size  # attention scores, not in the formula
    with bayesianize(model, method, samples=samples), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**batch)
    counted = counter.get_total_flops() / 2 / tokens
    macs = efficiency.head_of(config, method).macs(samples)
    assert macs is not None
    no_product = {"mfvr": samples, "fcvr-lowrank": samples, "vtsr": 1}  # per expert, element by element
    elementwise = no_product.get(method, 0) * config.num_local_experts
    extra = config.num_hidden_layers * (macs - elementwise)
    experts = config.num_hidden_layers * 3 * config.hidden_size * config.num_experts_per_tok * config.intermediate_size
    expected = efficiency.model_macs(config) + extra + scores
    # some releases of the counter do not know the grouped product
    assert counted in (pytest.approx(expected, rel=1e-3), pytest.approx(expected - experts, rel=1e-3))


def test_predictive_runs_the_upper_layers_once_per_sample():
    ratio = efficiency.predictive_ratio(GRANITE_3B, "deterministic", [16], samples=35)
    upper = 1 - sum(efficiency.layer_macs(GRANITE_3B)[:16]) / efficiency.model_macs(GRANITE_3B)
    assert ratio == pytest.approx(1 + 34 * upper)
    assert efficiency.predictive_ratio(GRANITE_3B, "fcvr", [0], samples=2) > 2


@pytest.mark.parametrize("positions", ["all", "scored"])
@pytest.mark.parametrize("layers", [[0, 1, 2], [2]])
def test_predictive_costs_what_a_counter_counts(positions, layers):
    """One question, options of equal length; attention scores, which grow with the context, are left out."""

    class Letters:
        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": [3 + ord(c) % 90 for c in text]}

    model = tiny_model()
    model.set_experts_implementation("eager")
    model.set_attn_implementation("eager")
    question = ["a prompt of 22 letters"], [["aaaa", "bbbb", "cccc"]]

    def products(**how):
        with FlopCounterMode(display=False) as counter:
            score_options(model, Letters(), *question, **how)
        return sum(count for name, count in counter.get_flop_counts()["Global"].items() if "bmm" not in str(name))

    native = products()
    with bayesianize(model, "mfvr", layers=layers, samples=4) as handle:
        counted = products(handle=handle, samples=4, positions=positions) / native
    config = model.config
    formula = efficiency.predictive_ratio(config, "mfvr", layers, 4, prompt=22, answers=9, positions=positions)
    assert counted == pytest.approx(formula, rel=0.02)


class Uncounted(DeterministicRouter):
    method = "uncounted"

    def macs(self, samples):
        return BayesianRouter.macs(self, samples)


def test_a_method_that_does_not_count_is_said(monkeypatch):
    monkeypatch.setitem(routers._loaded, "uncounted", Uncounted)
    with pytest.raises(efficiency.UncountedError, match="'uncounted' does not say what it costs"):
        efficiency.extra_share(GRANITE_3B, "uncounted", 1)
