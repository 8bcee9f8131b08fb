"""One forward pass: which tokens are real, where they stand in their sequence, and which noise each of them meets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vmoer.errors import UnsupportedModelError
from vmoer.forward.cache_history import recall, remember
from vmoer.rng import mix, prefix_keys


@dataclass
class Frame:
    """One forward pass: all tensors ``[batch, length]``; ``position`` counts the real tokens of a sequence from 0.

    ``sums`` are the noise keys before mixing, ``first_slot`` how many slots of the cache were taken. ``sequence``
    numbers the sequences packed into a row; ``None`` where each row is one. ``known`` is False where the cache was
    filled unwatched, so that the keys of what it holds are not known.
    """

    mask: Tensor
    position: Tensor
    keys: Tensor
    token_ids: Tensor | None
    past: bool
    sums: Tensor
    first_slot: int = 0
    sequence: Tensor | None = None
    known: bool = True


def frame_of(arguments: dict[str, Any], config: Any, packs: bool) -> Frame:
    """The frame of a decoder stack's ``arguments``; ``packs`` says whether its family tells packed sequences apart.

    Refused: masks that are not causal, packed sequences the model would mix.
    """
    ids, embeds = arguments.get("input_ids"), arguments.get("inputs_embeds")
    if ids is None and embeds is None:
        raise UnsupportedModelError("A forward pass needs input_ids or inputs_embeds.")
    given: Any = embeds if ids is None else ids
    batch, length = given.shape[:2]
    cache = arguments.get("past_key_values")
    past = int(cache.get_seq_length()) if cache is not None else 0
    real, position = _real(arguments.get("attention_mask"), batch, past, length, given.device)
    sequence = _packed(arguments, real, config, packs)
    content = ids if ids is not None else torch.zeros(batch, length, dtype=torch.long, device=given.device)
    before, known = recall(cache, batch, given.device) if cache is not None else (None, True)
    if sequence is None:
        sums = prefix_keys(content, position, real, before[:, -1] if before is not None and past else None)
    else:
        position = _within(sequence)
        running = prefix_keys(content, position, real)
        # a sequence meets the noise that it would meet alone: what stood before it in the row is taken out again
        start = (torch.arange(length, device=given.device) - position).clamp_min(0)
        earlier = running.gather(1, (start - 1).clamp_min(0))
        sums = running - torch.where(start > 0, earlier, 0)
    if before is not None:
        remember(cache, torch.cat([before, sums], dim=1), known)
    return Frame(real, position, mix(sums), ids, past > 0, sums, past, sequence, known)


def _real(mask: Any, batch: int, past: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which tokens of the pass are real, and the position of each, ``[batch, length]``."""
    if isinstance(mask, dict):  # made by generate() for a static cache, one per kind of attention
        made = [value for value in mask.values() if isinstance(value, Tensor)]
        # layers of linear attention get none for a single token, which does not say that all before it are real
        widest = max(made, key=lambda value: value.dim(), default=None)
        mask = mask.get("full_attention", widest)
    if mask is None:
        full = torch.ones(batch, past + length, dtype=torch.bool, device=device)
    elif isinstance(mask, Tensor) and mask.dim() == 2:
        full = mask.to(device=device, dtype=torch.bool)
        if full.shape[1] == length and past:
            full = torch.cat([full.new_ones(batch, past), full], dim=1)
    elif isinstance(mask, Tensor) and mask.dim() == 4:
        full = _columns(mask.to(device), batch, past, length)
    else:
        raise UnsupportedModelError(
            "Routing is recorded and sampled per real token: pass a 2-D attention_mask [batch, length]."
        )
    if full.shape[1] < past + length:
        raise UnsupportedModelError(
            f"The attention_mask has {full.shape[1]} columns, but there are {past} tokens in the cache and {length} "
            "new ones; give one column per token."
        )
    full = full[:, : past + length]  # a mask for a static cache has columns for what is yet to come
    position = (full.cumsum(1) - 1)[:, past:].clamp_min(0)
    return full[:, past:], position


def _columns(mask: Tensor, batch: int, past: int, length: int) -> Tensor:
    """The 2-D mask ``[batch, past + length]`` that a causal 4-D mask ``[batch, heads, length, slots]`` was made of."""
    seen = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] >= 0
    seen = seen.expand(batch, *seen.shape[1:])[..., : past + length]
    columns = seen[:, -1]  # the last token attends to all real ones, and is one
    if seen.shape[1:] == (length, past + length) and bool(columns[:, -1].all()):
        slot = torch.arange(past + length, device=mask.device)
        causal = columns[:, None, :] & (slot <= slot[past:, None])
        # some kernels cannot leave a row of padding without anything to attend to, and let it attend to everything
        everything = seen.all(-1) & ~columns[:, past:]
        if bool(((seen == causal).all(-1) | everything).all()):
            return columns
    raise UnsupportedModelError(
        "Routing is recorded and sampled per real token: this 4-D attention mask is not a causal one over all earlier "
        "tokens; pass a 2-D attention_mask [batch, length] (or leave cache_implementation at its default)."
    )


def _packed(arguments: dict[str, Any], real: Tensor, config: Any, packs: bool) -> Tensor | None:
    """The number of each token's sequence within its row, where ``position_ids`` pack several into one."""
    ids = arguments.get("position_ids")
    length = real.shape[1]
    if not isinstance(ids, Tensor) or length == 1 or ids.shape[-1] != length:
        return None
    ids = (ids[0] if ids.dim() == 3 else ids).to(real.device).expand(real.shape[0], length)
    use_cache = arguments.get("use_cache", arguments.get("kwargs", {}).get("use_cache"))
    cached = getattr(config, "use_cache", False) if use_cache is None else use_cache
    whole = arguments.get("attention_mask") is not None or arguments.get("past_key_values") is not None or cached
    step = ids[:, 1:] - ids[:, :-1]
    # transformers starts another sequence at any jump, unless a mask or a cache says that the row is one
    starts = (step <= 0) & real[:, 1:] & real[:, :-1] if whole else step != 1
    if not starts.any():
        return None
    if whole:
        raise UnsupportedModelError(
            "position_ids restart within a row, but a model with an attention_mask or a cache reads the row as one "
            "sequence: pack with use_cache=False and without an attention_mask, or give each sequence a row."
        )
    flash = "flash" in str(getattr(config, "_attn_implementation", "")) and real.shape[0] > 1
    if not packs or flash:
        raise UnsupportedModelError(
            "position_ids restart within a row, but this model would mix the sequences packed into it: give each "
            "sequence a row of its own."
        )
    return torch.nn.functional.pad(starts.long(), (1, 0)).cumsum(1)


def _within(sequence: Tensor) -> Tensor:
    """Position of each token within its packed sequence."""
    place = torch.arange(sequence.shape[1], device=sequence.device).expand_as(sequence)
    starts = torch.ones_like(sequence)
    starts[:, 1:] = sequence[:, 1:] - sequence[:, :-1]
    first: Tensor = torch.where(starts > 0, place, 0).cummax(1).values
    return place - first
