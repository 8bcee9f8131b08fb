"""The controls that every claim about routing noise needs: equally strong noise where there is no routing.

Gaussian noise is added to the final hidden state (the input of the language-model head), or to the output of the MoE
blocks whose routers the claim is about; σ = ``scale`` × RMS of each token's own vector. If averaging answers over this
noise does as much good as averaging over routing samples, the gain is not evidence of routing uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from vmoer.architectures import RouterSite
from vmoer.errors import VmoerError
from vmoer.forward.frame import Frame
from vmoer.forward.hooks import Mode, tap_of
from vmoer.rng import TokenNoise, mix, mix_int
from vmoer.scoring.options import OptionScores

#: separates this noise from the routers' (which use their layer index)
_STREAM = 1_000_003


def final_state_noise(
    model: nn.Module, scale: float, samples: int, seed: int = 0
) -> Callable[[int], AbstractContextManager[None]]:
    """Context factory for the ``expand`` argument of :func:`vmoer.scoring.options.score_options`.

    Inside ``expand(keep)`` the head answers the last ``keep`` positions of every row ``samples`` times, each under its
    own noise, stacked sample-major along the batch axis.
    """
    if not scale >= 0:
        raise VmoerError(f"The noise scale must be 0 or more, not {scale}.")
    tap = tap_of(model)
    head: nn.Module = tap.model.get_output_embeddings()  # type: ignore[operator]

    @contextmanager
    def expand(keep: int) -> Iterator[None]:
        seen: list[Frame] = []

        def remember(_site: Any, _decision: Any, frame: Frame) -> None:
            seen[:] = [frame]

        def noisy(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = args[0]
            rows, positions, width = hidden.shape
            keys = mix(seen[0].keys[:, -positions:].reshape(-1) ^ mix_int(seed, _STREAM))
            draws = TokenNoise(keys).normal(samples, width).view(samples, rows, positions, width)
            rms = hidden.float().square().mean(-1, keepdim=True).sqrt()
            return ((hidden.float() + scale * rms * draws).to(hidden.dtype).flatten(0, 1), *args[1:])

        hook = head.register_forward_pre_hook(noisy)
        try:
            with tap.listening(remember):
                yield
        finally:
            hook.remove()

    return expand


class MoeNoise:
    """Noise on the output of MoE blocks, sampled like routing: for the ``handle`` argument of ``score_options``.

    A block's output ``o`` becomes ``o + scale · RMS(o) · ε``, with ε standard normal per token and sample.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int], scale: float, seed: int = 0) -> None:
        if not scale >= 0:
            raise VmoerError(f"The noise scale must be 0 or more, not {scale}.")
        self.tap = tap_of(model)
        self.layers = list(layers)
        self.scale = scale
        self.seed = seed

    @property
    def support(self) -> int | None:
        """``None``: there is no end to its samples."""
        return None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the noise is at its mean: there is none."""
        with self.tap.listening(lambda *_: None):  # later passes must know what this one has read
            yield

    @contextmanager
    def one_draw(self, sample_ids: Tensor | None = None, stream: int = 0) -> Iterator[None]:
        """Inside the block each row carries the noise of the sample that ``sample_ids [batch]`` numbers."""
        mode = Mode(samples=None, seed=self.seed, sample_ids=sample_ids, stream=_STREAM + stream)
        hooks = [
            site.block.register_forward_hook(lambda _m, _a, output, site=site: self._disturb(site, output, mode))
            for site in self.tap.sites
            if site.layer in self.layers
        ]
        try:
            with self.tap.listening(lambda *_: None):  # the tap describes a pass only while somebody listens
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _disturb(self, site: RouterSite, output: Any, mode: Mode) -> Any:
        if self.tap.frame is None:
            return output
        plain = output[0] if isinstance(output, tuple) else output
        noise = self.tap.noise(site, self.tap.frame, mode).normal(1, site.hidden_size)[0].view(plain.shape)
        rms = plain.float().square().mean(-1, keepdim=True).sqrt()
        noisy = (plain.float() + self.scale * rms * noise).to(plain.dtype)
        return (noisy, *output[1:]) if isinstance(output, tuple) else noisy


def disagreement(samples: list[OptionScores], reference: list[OptionScores]) -> float:
    """Mean KL divergence (nats) from the answers without noise to each sample's: how strong a noise is.

    ``reference`` are the answers that the noise varies: the deterministic ones for noise beside routing, those of the
    method's own mean for a posterior, so that a mean which training has moved does not count as noise.
    """
    values: list[float] = []
    for noisy, plain in zip(samples, reference, strict=True):
        p = plain.probabilities()[0]
        q = np.clip(noisy.probabilities(), 1e-12, None)
        values.append(float((p * (np.log(np.clip(p, 1e-12, None)) - np.log(q))).sum(-1).mean()))
    return float(np.mean(values))


def matched_scale(
    strength: Callable[[float], float], target: float, *, low: float = 0.01, high: float = 8.0, steps: int = 7
) -> float:
    """The noise scale whose ``strength`` (:func:`disagreement`) equals ``target``, by bisection in log scale.

    Below ``low`` the KL divergence is taken to grow with the square of the scale; a ``target`` of 0 is a scale of 0.
    """
    if target < (weakest := strength(low)):
        return low * (target / weakest) ** 0.5
    bounds: NDArray[np.float64] = np.log(np.array([low, high]))
    for _ in range(steps):
        middle = float(bounds.mean())
        bounds[0 if strength(float(np.exp(middle))) < target else 1] = middle
    return float(np.exp(bounds.mean()))
