"""What the checks compare: tensors to the last bit, routing decisions up to the rounding of other kernels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vmoer.forward.recorder import record
from vmoer.forward.trace import RoutingTrace

#: outputs of the same tokens in batches of another shape differ by the rounding of other matrix kernels
ATOL = 2e-4


def trace_of(model: nn.Module, batch: dict[str, Tensor]) -> RoutingTrace:
    """The decisions of one forward pass."""
    with torch.no_grad(), record(model) as recorder:
        model(**batch)
    return recorder.trace


def assert_same(expected: Tensor, found: Tensor, what: str) -> None:
    """Raises unless two tensors agree in type and in every bit; ``what`` begins the sentence."""
    assert expected.dtype == found.dtype, f"{what} changed type from {expected.dtype} to {found.dtype}."
    assert torch.equal(expected, found), f"{what} differ from what they should be, to the last bit."


def assert_same_decisions(expected: RoutingTrace, found: RoutingTrace, what: str) -> None:
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


def hooks_of(model: nn.Module) -> int:
    """Number of hooks of all kinds in the module tree."""
    return sum(
        len(value)
        for module in model.modules()
        for name, value in vars(module).items()
        if name.endswith("_hooks") and value is not None
    )
