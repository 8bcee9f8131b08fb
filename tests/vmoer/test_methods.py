"""The table of methods says of each method what its router does."""

import pytest
import torch

from tests.contract.source import ROOT
from vmoer.methods import METHODS, has_kl, rank, trainable
from vmoer.routers import routers
from vmoer.routers.base import RouterShape


def test_every_router_file_has_its_line():
    files = {path.stem for path in (ROOT / "vmoer" / "routers").glob("*.py")} - {
        "__init__",
        "base",
        "weights",
        "expected_softmax",
    }
    assert {method.path.partition(":")[0].rpartition(".")[2] for method in METHODS} == files


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_line_is_true(method):
    cls = routers.get(method.name)
    assert (cls.method, cls.closed_form) == (method.name, method.closed_form)
    assert cls.keeps_last_weights == method.keeps_last
    head = cls(RouterShape(8, 6, 2), generator=torch.Generator().manual_seed(0))
    assert bool(list(head.parameters())) == method.trainable
    assert cls.trainable == method.trainable
    hidden, logits = torch.ones(3, 8), torch.arange(18.0).reshape(3, 6)
    head.bind(lambda inputs: inputs.new_zeros(len(inputs), 6))
    posterior = head.posterior(hidden, logits)
    assert (posterior.kl() is not None) == method.has_kl
    assert (posterior.gate_logits is not None) == (method.space == "selection")
    assert posterior.stochastic == (method.space != "none")
    if method.closed_form and posterior.stochastic:
        expected = posterior.expectation()
        assert expected is not None
        assert torch.allclose(expected.sum(-1), torch.ones(3), atol=1e-5)


def test_an_unknown_method_has_parameters_and_a_kl_and_comes_last():
    assert trainable("own")
    assert has_kl("own")
    assert rank("own") == len(METHODS) > rank("vtsr") > rank("deterministic") == 0
