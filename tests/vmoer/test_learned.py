"""Whether a posterior has left its prior: measured per layer, and judged by a rule with a stated limit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import vmoer
from vmoer.measure.learned import KL_LIMIT, LayerPosterior, has_learned, layer_posteriors
from vmoer.methods import kept_step
from vmoer.testing import tiny_batch, tiny_model


def row(kl: float | None) -> LayerPosterior:
    return LayerPosterior(0, kl, None, None)


@pytest.mark.parametrize("method", ["mfvr", "fcvr", "fcvr-lowrank", "vtsr"])
def test_untrained_heads_are_their_prior(method: str) -> None:
    model = tiny_model()
    with vmoer.bayesianize(model, method, samples=2) as handle:
        rows = layer_posteriors(handle, [tiny_batch((6, 4))])
    learned, why = has_learned(rows, None)
    assert learned is False
    assert "the posterior is its prior" in why
    assert [one.layer for one in rows] == handle.layers
    assert max(one.kl for one in rows if one.kl is not None) < 1e-3
    if method != "vtsr":
        assert [one.width for one in rows] == pytest.approx([1.0] * len(rows), abs=0.02)
        assert max(one.between for one in rows if one.between is not None) < 0.01


def test_kl_width_and_variation_are_those_of_the_gaussians() -> None:
    """Every real token's posterior as a torch distribution, averaged by hand; padding counts for nothing."""
    model, batch = tiny_model(), tiny_batch((7, 3))
    with vmoer.bayesianize(model, "fcvr", samples=2) as handle:
        with torch.no_grad():
            for value in handle.parameters():
                value.normal_(std=0.2, generator=torch.Generator().manual_seed(3))
        seen: list[Any] = []
        head: Any = handle.head(0)

        def keep(site: Any, decision: Any, frame: Any) -> None:
            seen.append((site.layer, decision.posterior, frame))

        with handle.tap.listening(keep), torch.no_grad():
            model(**batch)
        found = layer_posteriors(handle, [batch])[0]
    posterior, frame = next((posterior, frame) for layer, posterior, frame in seen if layer == 0)
    tau = float(head.logit_scale) * head.prior_std
    kls, variances = [], []
    for token in frame.mask.reshape(-1).nonzero()[:, 0]:
        q = MultivariateNormal(posterior.mean[token].double(), scale_tril=posterior.cholesky[token].double())
        size = q.mean.shape[0]
        native = (posterior.mean - posterior.residual)[token].double()
        kls.append(float(kl_divergence(q, MultivariateNormal(native, tau**2 * torch.eye(size).double()))))
        variances.append(float(q.covariance_matrix.trace()))
    spread = torch.tensor(variances)
    assert found.kl == pytest.approx(sum(kls) / len(kls), rel=1e-4)
    assert found.width == pytest.approx(float(spread.mean() / size) ** 0.5 / tau, rel=1e-4)
    assert found.between == pytest.approx(float(spread.std(correction=0) / spread.mean()), rel=1e-4)
    assert len(kls) == 10
    assert has_learned([found], 40) == (True, f"up to {found.kl:.2g} nats of KL from the prior")


def test_the_rule() -> None:
    assert has_learned([row(3.0)], 0) == (False, "training kept the weights it began with")
    assert has_learned([row(0.0), row(KL_LIMIT)], 10)[0] is True, "one layer that has left is enough"
    assert has_learned([row(0.0), row(0.9 * KL_LIMIT)], 10)[0] is False
    assert has_learned([row(None)], 10) == (True, "training kept step 10")
    assert has_learned([row(None)], None)[0] is None


def test_the_kept_step_follows_the_margin_and_the_method() -> None:
    checks = [(0, 1.0), (25, 0.9), (50, 0.89995), (75, 0.95)]
    assert kept_step(checks, "fcvr") == 25, "a fall below the margin is none"
    assert kept_step(checks[::-1], "fcvr") == 25
    assert kept_step(checks, "swagr") == 75, "it keeps its last weights"
    assert kept_step([(0, 1.0), (25, 1.1)], "fcvr") == 0
