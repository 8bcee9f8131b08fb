"""Counter-based random numbers: the draw for a token depends on what the token *is*, not on where it sits in a batch.

A draw is a pure function of (seed, stream, layer, token key, sample, expert). So batch order, padding and batch size
cannot change a result, the global generators of torch are never read or advanced, and a recomputed forward pass
(gradient checkpointing) meets the same noise again. Draws of *weights* leave the token key out: all tokens of a router
meet the same weights in sample s. The mixing function is the finaliser of SplitMix64
(Steele, Lea & Flood 2014), evaluated with wrapping 64-bit integer arithmetic on the tensor's own device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)
_SQRT2 = math.sqrt(2.0)


def _shift(x: Tensor, bits: int) -> Tensor:
    shifted = x >> bits
    shifted &= (1 << (64 - bits)) - 1  # in place here and below: new memory costs more than the arithmetic
    return shifted


def mix(x: Tensor) -> Tensor:
    """A well-mixed 64-bit hash of each entry of an int64 tensor, same shape."""
    first = _shift(x, 30)
    first ^= x
    first *= _FIRST
    second = _shift(first, 27)
    second ^= first
    second *= _SECOND
    last = _shift(second, 31)
    last ^= second
    return last


def mix_int(*values: int) -> int:
    """A 64-bit hash of a tuple of Python integers, as a signed integer."""
    state = 0
    for value in values:
        x = (state ^ (value & ((1 << 64) - 1))) + 0x9E3779B97F4A7C15 & ((1 << 64) - 1)
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & ((1 << 64) - 1)
        x = (x ^ x >> 27) * 0x94D049BB133111EB & ((1 << 64) - 1)
        state = x ^ x >> 31
    return _signed(state)


def prefix_keys(token_ids: Tensor, positions: Tensor, mask: Tensor, running: Tensor | None = None) -> Tensor:
    """Causal key of each token, ``[batch, length]`` int64: a hash of all real tokens up to and including it.

    ``running`` is the sum carried over from an earlier call with the same KV cache (``[batch]``). Padding adds nothing.
    """
    terms = mix(token_ids.long() * _GOLDEN + mix(positions.long() + 1)) * mask.long()
    total = terms.cumsum(dim=1)
    return total if running is None else total + running[:, None]


#: entries of a mask per hash, and the steps in which its probability is expressed
_LANES, MASK_STEPS = 4, 1 << 16


@dataclass(frozen=True)
class TokenNoise:
    """Random numbers for the tokens of one router call; ``keys`` is ``[tokens]`` int64.

    ``router`` is the key of the call without its tokens (seed, stream, layer). ``sample`` is ``[tokens]``: the number
    of the one draw each token takes; ``None`` where all tokens take draws 0, 1, 2, …
    """

    keys: Tensor
    router: int = 0
    sample: Tensor | None = None

    def chunk(self, start: int, stop: int) -> TokenNoise:
        """The same noise for tokens ``start`` to ``stop``."""
        return TokenNoise(self.keys[start:stop], self.router, None if self.sample is None else self.sample[start:stop])

    def shared(self, numbers: Tensor) -> TokenNoise:
        """Noise common to all tokens of the router: one key for each sample number in ``numbers`` (int64)."""
        return TokenNoise(mix(mix(numbers + 1) ^ self.router))

    def keep(self, samples: int, width: int, rate: float) -> Tensor:
        """Mask ``[samples, tokens, width]``: 0 with probability ``rate`` (to 2⁻¹⁶), else 1; one hash, four entries."""
        words = -(-width // _LANES)
        index = torch.arange(samples * words, device=self.keys.device, dtype=torch.int64)
        bits = mix(self.keys.view(1, -1, 1) + index.view(samples, 1, words) * _GOLDEN)
        kept = bits.view(torch.int16)[..., :width] >= round(rate * MASK_STEPS) - MASK_STEPS // 2
        return kept.view(torch.uint8)  # which multiplies three times faster than bool

    def uniform(self, samples: int, width: int) -> Tensor:
        """Uniform draws in the open interval (0, 1), ``[samples, tokens, width]`` float32."""
        index = torch.arange(samples * width, device=self.keys.device, dtype=torch.int64)
        counter = index.view(samples, 1, width) * _GOLDEN
        bits = _shift(mix(self.keys.view(1, -1, 1) + counter), 41)  # 23 bits: 2b + 1 is exact in float32
        return (2 * bits + 1).to(torch.float32) * 2.0**-24

    def normal(self, samples: int, width: int) -> Tensor:
        """Standard normal draws by inversion, ``[samples, tokens, width]`` float32 (|x| < 5.4)."""
        return torch.erfinv(2.0 * self.uniform(samples, width) - 1.0) * _SQRT2

    def gumbel(self, samples: int, width: int) -> Tensor:
        """Standard Gumbel draws, ``[samples, tokens, width]`` float32."""
        return -torch.log(-torch.log(self.uniform(samples, width)))
