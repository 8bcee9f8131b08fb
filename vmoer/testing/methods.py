"""What every routing method must satisfy, on a tiny model of any family: ``check_router`` runs it all."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vmoer.forward.decision
from vmoer.attach import bayesianize, load_routers
from vmoer.forward.hooks import tap_of
from vmoer.handle import Handle
from vmoer.testing.compare import assert_same, assert_same_decisions, hooks_of, trace_of
from vmoer.testing.tiny import LENGTHS, tiny_batch, tiny_model, tiny_row


def check_router(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Everything a routing method promises, on a tiny model of ``family``."""
    for check in METHOD_CHECKS:
        check(method, family, **options)


def check_identity(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """A fresh router whose noise is scaled to zero *is* the native router: same bits out of the model."""
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model(family).to(dtype)
        batch = tiny_batch()
        with torch.no_grad():
            before = model(**batch, output_router_logits=True)
            for estimator in ("in-router", "predictive"):
                with bayesianize(model, method, samples=4, estimator=estimator, **options) as handle:
                    handle.scale_noise(0.0)
                    after = model(**batch, output_router_logits=True)
                assert_same(before.logits, after.logits, f"{method}, {estimator}, {dtype}: without noise, outputs")
                for ours, native in zip(after.router_logits, before.router_logits, strict=True):
                    assert_same(native, ours, f"{method}, {estimator}, {dtype}: without noise, router logits")


def check_padding(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Padding left, right or none, narrow or wide: the same decisions for the same tokens."""
    model = tiny_model(family)
    with bayesianize(model, method, samples=5, **options):
        alone = [trace_of(model, tiny_row(row)) for row in range(len(LENGTHS))]
        for side in ("left", "right"):
            for width in (max(LENGTHS), max(LENGTHS) + 4):
                trace = trace_of(model, tiny_batch(side=side, width=width))
                assert len(trace) == sum(LENGTHS), f"{method}: padding on the {side} was recorded."
                for row, part in enumerate(trace.examples()):
                    assert_same_decisions(alone[row], part, f"{method}, padded on the {side} to {width}")


def check_batching(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Batch order and batch size change no decision."""
    model = tiny_model(family)
    batch = tiny_batch()
    order = torch.tensor([2, 0, 1])
    with bayesianize(model, method, samples=5, **options):
        parts = list(trace_of(model, batch).examples())
        shuffled = list(trace_of(model, {name: value[order] for name, value in batch.items()}).examples())
        for place, row in enumerate(order.tolist()):
            assert_same_decisions(parts[row], shuffled[place], f"{method}, rows in another order")
        more = tiny_batch(seed=1)
        larger = {name: torch.cat([value, more[name]]) for name, value in batch.items()}
        for expected, part in zip(parts, trace_of(model, larger).examples(), strict=False):
            assert_same_decisions(expected, part, f"{method}, other rows in the batch")


def check_seeds(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Same seed, same bits; another seed, other draws (unless the method draws nothing)."""
    model = tiny_model(family)
    batch = tiny_batch()
    for estimator in ("in-router", "predictive"):
        outputs = []
        for seed in (0, 0, 1):
            with (
                bayesianize(model, method, samples=2, estimator=estimator, seed=0, **options) as handle,
                torch.no_grad(),
            ):
                handle.seed = seed
                handle.restore()
                handle.enable()
                outputs.append(model(**batch).logits)
                drawn = is_stochastic(handle)
        assert_same(outputs[0], outputs[1], f"{method}, {estimator}: outputs under the same seed")
        if drawn:
            assert not torch.equal(outputs[0], outputs[2]), f"{method}, {estimator}: the seed changes nothing."


def check_isolation(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """No global random generator is read or advanced, whether routers are made, used, recorded or saved."""
    model = tiny_model(family)
    before = _random_states()
    with bayesianize(model, method, samples=2, **options) as handle, tempfile.TemporaryDirectory() as folder:
        first = trace_of(model, tiny_batch())
        handle.save(folder)
    for name, state in _random_states().items():
        assert state == before[name], f"{method} advances the global generator of {name}."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)
        with bayesianize(model, method, samples=2, **options):
            second = trace_of(model, tiny_batch())
    assert_same_decisions(first, second, f"{method}, under another global seed")


def check_memory_chunks(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Drawing for a few tokens at a time gives what drawing for all of them at once gives."""
    model = tiny_model(family)
    with bayesianize(model, method, samples=6, **options):
        whole = trace_of(model, tiny_batch())
        with _draw_budget(1):
            assert_same_decisions(whole, trace_of(model, tiny_batch()), f"{method}, drawn token by token")


def check_round_trip(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Saved and loaded routers give the same bits, their settings included."""
    model = tiny_model(family)
    batch = tiny_batch()
    sites = tap_of(model).sites
    outer = [sites[0].layer, sites[-1].layer]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        with bayesianize(model, method, layers=outer, samples=3, seed=7, **options) as handle:
            _perturb(handle)
            before = model(**batch).logits
            handle.save(folder)
        with load_routers(model, folder) as loaded:
            after = model(**batch).logits
            found = (loaded.method, loaded.layers, loaded.samples, loaded.seed, loaded.estimator)
    assert_same(before, after, f"{method}: outputs after save and load")
    assert found == (method, outer, 3, 7, "in-router"), f"{method}: settings changed on the way: {found}."


def check_restore(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Parameters and keys stay as they are while active; restoring leaves no hook and gives the native bits."""
    model = tiny_model(family)
    batch = tiny_batch()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = hooks_of(model)
    with torch.no_grad():
        before = model(**batch).logits
        handle = bayesianize(model, method, samples=2, **options)
        model(**batch)
        active = model.state_dict()
        handle.restore()
        handle.restore()
        after = model(**batch).logits
    assert list(active) == list(state), f"{method}: the keys of state_dict change while the handle is active."
    for name, value in model.state_dict().items():
        assert_same(state[name], value, f"{method}: parameter {name}")
    assert hooks_of(model) == hooks, f"{method}: restore() leaves hooks behind."
    assert_same(before, after, f"{method}: outputs after restore()")


def check_objective(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Every parameter learns from one draw plus KL; the KL is finite, not negative, and near 0 at the start."""
    model = tiny_model(family)
    batch = tiny_batch()
    divergences: list[Tensor] = []

    def collect(_site: Any, decision: Any, frame: Any) -> None:
        kl = decision.posterior.kl() if decision.posterior is not None else None
        if kl is not None:
            divergences.append(kl[frame.mask.reshape(-1)])

    with bayesianize(model, method, estimator="predictive", **options) as handle, handle.tap.listening(collect):
        logits = model(**batch).logits
        loss = logits.log_softmax(-1)[..., 5].mean()
        for kl in divergences:
            assert kl.shape == (sum(LENGTHS),), f"{method}: kl() must hold one value per token."
            assert torch.isfinite(kl).all(), f"{method}: the KL is not finite."
            assert kl.min() > -1e-4, f"{method}: the KL is negative."
            assert kl.mean() < 0.05, f"{method}: a fresh router is {kl.mean():.3f} nats from its prior, not near 0."
            loss = loss + kl.mean()
        parameters = list(handle.routers.named_parameters())
        if not parameters:
            return
        loss.backward()
        for name, parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None, f"{method}: no gradient reaches {name}."
            assert torch.isfinite(gradient).all(), f"{method}: the gradient of {name} is not finite."
            assert gradient.abs().max() > 0, f"{method}: the gradient of {name} is zero."


def is_stochastic(handle: Handle) -> bool:
    """Whether a seed decides the handle's draws (no for the deterministic method and for members of an ensemble)."""
    head = handle.head(handle.layers[0])
    with torch.no_grad():
        hidden, logits = (
            head.logit_scale.new_full((1, width), fill)
            for width, fill in ((head.shape.hidden_size, 1.0), (head.shape.n_experts, 0.0))
        )
        posterior = head.posterior(hidden, logits)
    return posterior.stochastic and posterior.support is None


def _random_states() -> dict[str, Any]:
    """State of every global generator that a library could disturb."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state(legacy=False)),
        "python": random.getstate(),
    }


def _perturb(handle: Handle) -> None:
    """Move every parameter off its initial value, as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.device))


@contextmanager
def _draw_budget(floats: int) -> Iterator[None]:
    previous, vmoer.forward.decision.DRAW_BUDGET = vmoer.forward.decision.DRAW_BUDGET, floats
    try:
        yield
    finally:
        vmoer.forward.decision.DRAW_BUDGET = previous


#: every promise of a routing method, in the order they are checked
METHOD_CHECKS = (
    check_identity,
    check_padding,
    check_batching,
    check_seeds,
    check_isolation,
    check_memory_chunks,
    check_round_trip,
    check_restore,
    check_objective,
)
