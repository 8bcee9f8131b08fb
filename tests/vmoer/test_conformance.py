"""Every method and every family must pass the public conformance suite; and the suite must be able to fail."""

from dataclasses import dataclass, replace

import pytest
import torch

from vmoer import testing
from vmoer.architectures import architectures
from vmoer.attach import bayesianize
from vmoer.errors import UnsupportedModelError
from vmoer.routers import BayesianRouter, Posterior, routers

#: families that every promise of every method is checked on: softmax over the chosen, and sigmoids with a bias,
#: expert groups and a dense block; the other families see each method once
THOROUGH = ("GraniteMoeForCausalLM", "DeepseekV3ForCausalLM")
BAYESIAN = [name for name in architectures.names() if not architectures.get(name).bayesian_refusal]


@pytest.mark.parametrize("check", testing.FAMILY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("family", architectures.names())
def test_family_conforms(check, family):
    check(family)


@pytest.mark.parametrize("check", testing.METHOD_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("method", routers.names())
@pytest.mark.parametrize("family", THOROUGH)
def test_method_conforms(check, method, family):
    check(method, family)


@pytest.mark.parametrize("method", routers.names())
@pytest.mark.parametrize("family", [family for family in BAYESIAN if family not in THOROUGH])
def test_method_conforms_in_every_family(method, family):
    testing.check_identity(method, family)
    testing.check_restore(method, family)


@pytest.mark.parametrize("method", routers.names())
@pytest.mark.parametrize("family", sorted({*architectures.names()} - {*BAYESIAN}))
def test_a_family_without_bayesian_routers_refuses_them_with_a_sentence(method, family):
    if method == "deterministic":
        testing.check_identity(method, family)
        return
    with pytest.raises(UnsupportedModelError, match="Bayesian routers are refused"):
        bayesianize(testing.tiny_model(family), method)


@dataclass
class Spread(Posterior):
    """Normal with one width; ``noise_scale`` and the noise may be ignored, as faulty methods do."""

    width: float = 0.3

    def draw(self, samples, noise):
        return self.mean + self.width * noise.normal(samples, self.mean.shape[-1])

    def chunk(self, start, stop):
        return replace(self, mean=self.mean[start:stop])


class Honest(BayesianRouter):
    """A third party's method that keeps every promise."""

    trainable = False

    def posterior(self, hidden, base_logits):
        return Spread(base_logits, width=0.3 * float(self.noise_scale))


class NeverNative(Honest):
    def posterior(self, hidden, base_logits):
        return Spread(base_logits)


class BatchDependent(Honest):
    def posterior(self, hidden, base_logits):
        return Spread(base_logits + 0.5 * float(self.noise_scale) * (hidden - hidden.mean(0))[:, :8])


class GlobalNoise(Honest):
    def posterior(self, hidden, base_logits):
        return Spread(base_logits + float(self.noise_scale) * torch.randn_like(base_logits))


class Deaf(Honest):
    """Draws the same whatever the seed."""

    def posterior(self, hidden, base_logits):
        return Spread(base_logits + float(self.noise_scale) * hidden[:, :8], width=0.0)


class Forgetful(Honest):
    """Has a setting that its checkpoint does not hold."""

    def __init__(self, shape, *, width=0.0, **common):
        super().__init__(shape, **common)
        self.width = width

    def posterior(self, hidden, base_logits):
        return Spread(base_logits, width=self.width * float(self.noise_scale))


class Chunked(Honest):
    def posterior(self, hidden, base_logits):
        return Whole(base_logits, width=0.3 * float(self.noise_scale))


@dataclass
class Whole(Spread):
    def chunk(self, start, stop):
        return replace(self, mean=self.mean[: stop - start])


class FarFromPrior(Honest):
    def posterior(self, hidden, base_logits):
        return Divergent(base_logits, width=0.3 * float(self.noise_scale))


class Divergent(Spread):
    def kl(self):
        return torch.ones(len(self.mean))


class Idle(Honest):
    """A parameter that nothing uses."""

    def __init__(self, shape, **common):
        super().__init__(shape, **common)
        self.used = torch.nn.Parameter(torch.zeros(8))
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def posterior(self, hidden, base_logits):
        return Spread(base_logits + self.used, width=0.3 * float(self.noise_scale))


@pytest.fixture
def third_party(monkeypatch):
    def register(cls):
        monkeypatch.setitem(routers._loaded, "third-party", cls)
        return "third-party"

    return register


def test_an_honest_third_party_method_passes(third_party):
    testing.check_router(third_party(Honest))


@pytest.mark.parametrize(
    ("faulty", "check", "sentence"),
    [
        (NeverNative, testing.check_identity, "without noise, outputs"),
        (BatchDependent, testing.check_padding, "padded on the left"),
        (BatchDependent, testing.check_batching, "other rows in the batch"),
        (GlobalNoise, testing.check_isolation, "global generator of torch"),
        (Deaf, testing.check_seeds, "the seed changes nothing"),
        (Chunked, testing.check_memory_chunks, "token by token"),
        (FarFromPrior, testing.check_objective, "not near 0"),
        (Idle, testing.check_objective, "no gradient reaches 0.unused"),
    ],
)
def test_the_suite_finds_the_fault(third_party, faulty, check, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(third_party(faulty))


def test_the_suite_finds_a_setting_lost_in_the_checkpoint(third_party):
    with pytest.raises(AssertionError, match="after save and load"):
        testing.check_round_trip(third_party(Forgetful), width=0.5)


def test_the_suite_finds_a_wrong_gate_rule(monkeypatch):
    rule = architectures.get("GraniteMoeForCausalLM")
    monkeypatch.setattr(rule, "gates", lambda _self, _site, logits, index: logits.softmax(-1).gather(-1, index))
    with pytest.raises(AssertionError, match="gate weights differ"):
        testing.check_rule("GraniteMoeForCausalLM")


def test_tiny_models_and_batches_leave_the_global_random_state():
    before = torch.get_rng_state()
    first, second = testing.tiny_model(seed=3), testing.tiny_model(seed=3)
    testing.tiny_batch()
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
