"""Routing stability per layer: how much of the top-k set survives noise on the router's input.

Noise is Gaussian with σ per coordinate = γ × RMS over real tokens of the L2 norm of *that layer's own* router input
(not of the embeddings). ``router`` mode re-runs only the router at hand; ``propagated`` mode perturbs the inputs of all
routers in one pass, so that changed decisions also move the layers above. A Bayesian router keeps its own random
numbers (common random numbers): only the input noise differs between the two sets. ``redrawn`` mode is ``router`` mode
with another routing draw in the disturbed pass: with γ = 0 it tells how far two draws agree on the same input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vmoer.architectures import RouterSite
from vmoer.errors import VmoerError
from vmoer.forward.decision import Decision
from vmoer.forward.frame import Frame
from vmoer.forward.hooks import Tap, tap_of
from vmoer.forward.modes import evaluation
from vmoer.rng import TokenNoise, mix, mix_int

GAMMAS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
Mode = Literal["router", "propagated", "redrawn"]

#: separates the probe's noise, and the routers' second draw, from the routers' own
_STREAM = 1_000_033
_REDRAWN = 1_000_037


@dataclass(frozen=True)
class Stability:
    """Jaccard index of clean and noisy top-k sets: ``token_jaccard`` is ``[gammas, layers, real tokens]``.

    ``example [tokens]`` numbers the rows over all batches, for intervals that respect examples.
    """

    gammas: tuple[float, ...]
    layers: list[int]
    mode: str
    token_jaccard: NDArray[np.float32]
    example: NDArray[np.int64]

    @property
    def jaccard(self) -> NDArray[np.float64]:
        """Mean over real tokens ``[gammas, layers]``."""
        return self.token_jaccard.mean(-1, dtype=np.float64)


def measure(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    gammas: Sequence[float] = GAMMAS,
    mode: Mode = "router",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Stability:
    """Stability of every MoE layer of ``model`` (with whatever routers it carries) on tokenised ``batches``."""
    if mode not in get_args(Mode):
        raise VmoerError(f"Unknown stability mode {mode!r}; use 'router', 'propagated' or 'redrawn'.")
    if not batches or not gammas or min(gammas) < 0:
        raise VmoerError("Stability needs at least one batch and noise levels of 0 or more.")
    tap = tap_of(model)
    scale = input_norms(tap, batches)
    per_batch, examples, rows = [], [], 0
    with evaluation(tap.model), torch.inference_mode():
        for done, batch in enumerate(batches, 1):
            probe = _propagated_mode if mode == "propagated" else partial(_router_mode, redrawn=mode == "redrawn")
            per_batch.append(probe(tap, batch, tuple(gammas), scale, seed))
            mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool().cpu()
            row = torch.arange(mask.shape[0])[:, None].expand_as(mask)[mask]
            examples.append(row.numpy() + rows)
            rows += mask.shape[0]
            if progress is not None:
                progress(done, len(batches))
    return Stability(
        tuple(gammas),
        [site.layer for site in tap.sites],
        mode,
        np.concatenate(per_batch, axis=-1),
        np.concatenate(examples),
    )


def input_norms(tap: Tap, batches: Sequence[Mapping[str, Tensor]]) -> dict[int, float]:
    """Per layer, the RMS over real tokens of the L2 norm of the router's input."""
    squares: dict[int, float] = {}
    tokens = 0

    def collect(site: RouterSite, decision: Decision, frame: Frame) -> None:
        nonlocal tokens
        real = _real(decision, frame)
        assert decision.hidden is not None
        hidden = decision.hidden.reshape(-1, site.hidden_size)[real].float()
        squares[site.layer] = squares.get(site.layer, 0.0) + float(hidden.square().sum())
        if site.layer == tap.sites[0].layer:
            tokens += int(real.sum())

    with evaluation(tap.model), tap.listening(collect), torch.inference_mode():
        for batch in batches:
            tap.model(**batch)
    return {layer: (total / max(tokens, 1)) ** 0.5 for layer, total in squares.items()}


def jaccard(first: Tensor, second: Tensor) -> Tensor:
    """Jaccard index of two sets of expert indices ``[..., k]`` each, ``[...]`` float32."""
    shared = (first[..., :, None] == second[..., None, :]).any(-1).sum(-1).float()
    return shared / (2 * first.shape[-1] - shared)


def _router_mode(
    tap: Tap,
    batch: Mapping[str, Tensor],
    gammas: tuple[float, ...],
    scale: dict[int, float],
    seed: int,
    redrawn: bool,
) -> NDArray[np.float32]:
    found: list[Tensor] = []

    def collect(site: RouterSite, decision: Decision, frame: Frame) -> None:
        real = _real(decision, frame)
        assert decision.hidden is not None
        hidden = decision.hidden.reshape(-1, site.hidden_size)
        unit = _unit_noise(site, frame, seed)
        rows = []
        with tap.using(stream=_REDRAWN) if redrawn else nullcontext():
            for gamma in gammas:
                noisy = hidden + (gamma * scale[site.layer] * unit).to(hidden.dtype)
                rows.append(jaccard(decision.index, tap.reroute(site, noisy, frame).index)[real])
        found.append(torch.stack(rows).cpu())

    with tap.listening(collect):
        tap.model(**batch)
    return torch.stack(found, dim=1).numpy()


def _propagated_mode(
    tap: Tap, batch: Mapping[str, Tensor], gammas: tuple[float, ...], scale: dict[int, float], seed: int
) -> NDArray[np.float32]:
    clean: dict[int, Tensor] = {}

    def remember(site: RouterSite, decision: Decision, frame: Frame) -> None:
        clean[site.layer] = decision.index

    with tap.listening(remember):
        tap.model(**batch)
    per_gamma = []
    for gamma in gammas:
        found: list[Tensor] = []

        def compare(site: RouterSite, decision: Decision, frame: Frame, found: list[Tensor] = found) -> None:
            found.append(jaccard(clean[site.layer], decision.index)[_real(decision, frame)].cpu())

        def perturb(site: RouterSite, hidden: Tensor, gamma: float = gamma) -> Tensor:
            assert tap.frame is not None
            unit = _unit_noise(site, tap.frame, seed).view(hidden.shape)
            return hidden + (gamma * scale[site.layer] * unit).to(hidden.dtype)

        hooks = [
            site.router.register_forward_pre_hook(lambda _, args, site=site: (perturb(site, args[0]), *args[1:]))
            for site in tap.sites
        ]
        try:
            with tap.listening(compare):
                tap.model(**batch)
        finally:
            for hook in hooks:
                hook.remove()
        per_gamma.append(torch.stack(found))
    return torch.stack(per_gamma).numpy()


def _unit_noise(site: RouterSite, frame: Frame, seed: int) -> Tensor:
    keys = mix(frame.keys.reshape(-1) ^ mix_int(seed, _STREAM, site.layer))
    return TokenNoise(keys).normal(1, site.hidden_size)[0]


def _real(decision: Decision, frame: Frame) -> Tensor:
    return frame.mask.reshape(-1).to(decision.index.device)
