"""Conformance suite: what every routing method and every model family must satisfy, third parties' own included.

Plain functions that raise ``AssertionError`` with a sentence; call them from any test runner. ``check_router`` and
``check_architecture`` run everything. Models here have random weights and run in milliseconds.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import vmoer.decision
from vmoer.architectures import architecture_of, architectures
from vmoer.checkpoint import load_routers
from vmoer.handle import Handle, bayesianize
from vmoer.recorder import record
from vmoer.trace import RoutingTrace

#: outputs of the same tokens in batches of another shape differ by the rounding of other matrix kernels
ATOL = 2e-4
LENGTHS = (7, 3, 5)


def tiny_model(family: str = "GraniteMoeForCausalLM", seed: int = 0, **overrides: Any) -> Any:
    """A random-weight model of ``family`` in evaluation mode; the global random state is left as it was."""
    import transformers

    config = architectures.get(family)().tiny_config(family, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, family)(config)
    return model.eval()


def tiny_batch(
    lengths: Sequence[int] = LENGTHS, side: str = "left", seed: int = 0, vocabulary: int = 97, width: int | None = None
) -> dict[str, Tensor]:
    """Rows of random tokens of the given ``lengths``, padded on ``side`` to ``width``; same seed, same tokens."""
    generator = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if side == "left" else slice(0, length)
        ids[row, place] = torch.randint(3, vocabulary, (length,), generator=generator)
        mask[row, place] = 1
    position = (mask.cumsum(1) - 1).clamp_min(0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": position}


def check_architecture(family: str) -> None:
    """The family's selection and gate rule give the native router's own indices and weights to the last bit."""
    for dtype in (torch.float32, torch.bfloat16):
        for experts in ("eager", "grouped_mm"):
            model = tiny_model(family).to(dtype)
            model.set_experts_implementation(experts)
            _check_rule(model, f"{family} in {dtype} with {experts} experts")
    model = tiny_model(family)
    architecture = architecture_of(model)
    paths = dict(model.named_modules())
    for site in architecture.sites(model):
        assert paths[site.path] is site.router, f"{family}: {site.path} is not the router of layer {site.layer}."
        assert site.block in list(architecture.decoder_layers(model)[site.layer].modules()), (
            f"{family}: the MoE block said to be in layer {site.layer} is elsewhere."
        )


def check_router(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Everything a routing method promises, on a tiny model of ``family``."""
    check_identity(method, family, **options)
    check_padding(method, family, **options)
    check_batching(method, family, **options)
    check_seeds(method, family, **options)
    check_isolation(method, family, **options)
    check_memory_chunks(method, family, **options)
    check_round_trip(method, family, **options)
    check_restore(method, family, **options)
    check_objective(method, family, **options)


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
                _assert_same(before.logits, after.logits, f"{method}, {estimator}, {dtype}: without noise, outputs")
                for ours, native in zip(after.router_logits, before.router_logits, strict=True):
                    _assert_same(native, ours, f"{method}, {estimator}, {dtype}: without noise, router logits")


def check_padding(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Padding left, right or none, narrow or wide: the same decisions for the same tokens."""
    model = tiny_model(family)
    with bayesianize(model, method, samples=5, **options):
        alone = [_trace(model, tiny_row(row)) for row in range(len(LENGTHS))]
        for side in ("left", "right"):
            for width in (max(LENGTHS), max(LENGTHS) + 4):
                trace = _trace(model, tiny_batch(side=side, width=width))
                assert len(trace) == sum(LENGTHS), f"{method}: padding on the {side} was recorded."
                for row, part in enumerate(trace.examples()):
                    _assert_same_decisions(alone[row], part, f"{method}, padded on the {side} to {width}")


def check_batching(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Batch order and batch size change no decision."""
    model = tiny_model(family)
    batch = tiny_batch()
    order = torch.tensor([2, 0, 1])
    with bayesianize(model, method, samples=5, **options):
        parts = list(_trace(model, batch).examples())
        shuffled = list(_trace(model, {name: value[order] for name, value in batch.items()}).examples())
        for place, row in enumerate(order.tolist()):
            _assert_same_decisions(parts[row], shuffled[place], f"{method}, rows in another order")
        more = tiny_batch(seed=1)
        larger = {name: torch.cat([value, more[name]]) for name, value in batch.items()}
        for expected, part in zip(parts, _trace(model, larger).examples(), strict=False):
            _assert_same_decisions(expected, part, f"{method}, other rows in the batch")


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
        _assert_same(outputs[0], outputs[1], f"{method}, {estimator}: outputs under the same seed")
        if drawn:
            assert not torch.equal(outputs[0], outputs[2]), f"{method}, {estimator}: the seed changes nothing."


def check_isolation(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """No global random generator is read or advanced, whether routers are made, used, recorded or saved."""
    model = tiny_model(family)
    before = _random_states()
    with bayesianize(model, method, samples=2, **options) as handle, tempfile.TemporaryDirectory() as folder:
        first = _trace(model, tiny_batch())
        handle.save(folder)
    for name, state in _random_states().items():
        assert state == before[name], f"{method} advances the global generator of {name}."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)
        with bayesianize(model, method, samples=2, **options):
            second = _trace(model, tiny_batch())
    _assert_same_decisions(first, second, f"{method}, under another global seed")


def check_memory_chunks(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Drawing for a few tokens at a time gives what drawing for all of them at once gives."""
    model = tiny_model(family)
    with bayesianize(model, method, samples=6, **options):
        whole = _trace(model, tiny_batch())
        with _draw_budget(1):
            _assert_same_decisions(whole, _trace(model, tiny_batch()), f"{method}, drawn token by token")


def check_round_trip(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Saved and loaded routers give the same bits, their settings included."""
    model = tiny_model(family)
    batch = tiny_batch()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        with bayesianize(model, method, layers=[0, 2], samples=3, seed=7, **options) as handle:
            _perturb(handle)
            before = model(**batch).logits
            handle.save(folder)
        with load_routers(model, folder) as loaded:
            after = model(**batch).logits
            found = (loaded.method, loaded.layers, loaded.samples, loaded.seed, loaded.estimator)
    _assert_same(before, after, f"{method}: outputs after save and load")
    assert found == (method, [0, 2], 3, 7, "in-router"), f"{method}: settings changed on the way: {found}."


def check_restore(method: str, family: str = "GraniteMoeForCausalLM", **options: Any) -> None:
    """Parameters and keys stay as they are while active; restoring leaves no hook and gives the native bits."""
    model = tiny_model(family)
    batch = tiny_batch()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = _hooks(model)
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
        _assert_same(state[name], value, f"{method}: parameter {name}")
    assert _hooks(model) == hooks, f"{method}: restore() leaves hooks behind."
    _assert_same(before, after, f"{method}: outputs after restore()")


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


def tiny_row(row: int, lengths: Sequence[int] = LENGTHS) -> dict[str, Tensor]:
    """One row of :func:`tiny_batch` without any padding."""
    batch = tiny_batch(lengths)
    return {name: value[row : row + 1, -lengths[row] :] for name, value in batch.items()}


def is_stochastic(handle: Handle) -> bool:
    """Whether a seed decides the handle's draws (no for the deterministic method and for members of an ensemble)."""
    head = handle.head(handle.layers[0])
    with torch.no_grad():
        posterior = head.posterior(torch.ones(1, head.shape.hidden_size), torch.zeros(1, head.shape.n_experts))
    return posterior.stochastic and posterior.support is None


def _check_rule(model: nn.Module, what: str) -> None:
    architecture = architecture_of(model)
    sites = architecture.sites(model)
    seen: dict[int, Any] = {}
    hooks = [
        site.router.register_forward_hook(lambda _m, _a, out, layer=site.layer: seen.update({layer: out}))
        for site in sites
    ]
    try:
        with torch.no_grad():
            model(**tiny_batch())
    finally:
        for hook in hooks:
            hook.remove()
    assert sites, f"{what}: no router was found."
    for site in sites:
        logits, weight, index = architecture.unpack(seen[site.layer])
        assert logits.shape[-1] == site.n_experts, f"{what}: {logits.shape[-1]} logits, said to be {site.n_experts}."
        assert index.shape[-1] == site.top_k, f"{what}: {index.shape[-1]} experts chosen, said to be {site.top_k}."
        chosen = architecture.select(site, logits)
        _assert_same(index, chosen, f"{what}, layer {site.layer}: chosen experts")
        _assert_same(weight, architecture.gates(site, logits, chosen).to(weight.dtype), f"{what}: gate weights")
        for packed, native in zip(architecture.pack(logits, weight, index), seen[site.layer], strict=True):
            assert packed is native, f"{what}: pack() does not undo unpack()."


def _trace(model: nn.Module, batch: dict[str, Tensor]) -> RoutingTrace:
    with torch.no_grad(), record(model) as recorder:
        model(**batch)
    return recorder.trace


def _assert_same(expected: Tensor, found: Tensor, what: str) -> None:
    assert expected.dtype == found.dtype, f"{what} changed type from {expected.dtype} to {found.dtype}."
    assert torch.equal(expected, found), f"{what} differ from what they should be, to the last bit."


def _assert_same_decisions(expected: RoutingTrace, found: RoutingTrace, what: str) -> None:
    """Equal up to rounding; experts may only differ where the margin between them is of that size."""
    for name in ("position", "token_id"):
        assert np.array_equal(getattr(expected, name), getattr(found, name)), f"{what}: {name} differs."
    clear = np.minimum(expected.top_k_margin, found.top_k_margin) > ATOL
    same = (np.sort(expected.expert_index) == np.sort(found.expert_index)).all(-1)
    assert same[clear].all(), f"{what}: other experts for the same token."
    for name in ("routing_entropy", "logit_variance", "logit_variance_mc", "temperature"):
        first, second = getattr(expected, name)[clear], getattr(found, name)[clear]
        assert np.allclose(first, second, rtol=1e-3, atol=ATOL, equal_nan=True), f"{what}: {name} differs."
    gates = np.abs(np.sort(expected.gate_weight) - np.sort(found.gate_weight))[clear]
    assert gates.size, f"{what}: no decision is clear enough to compare."
    assert gates.max() < ATOL, f"{what}: gate weights differ by {gates.max():.2g}."


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
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def _hooks(model: nn.Module) -> int:
    """Number of hooks of all kinds in the module tree."""
    return sum(
        len(value)
        for module in model.modules()
        for name, value in vars(module).items()
        if name.endswith("_hooks") and value is not None
    )


@contextmanager
def _draw_budget(floats: int) -> Iterator[None]:
    previous, vmoer.decision.DRAW_BUDGET = vmoer.decision.DRAW_BUDGET, floats
    try:
        yield
    finally:
        vmoer.decision.DRAW_BUDGET = previous
