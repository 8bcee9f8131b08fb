"""Which recorded tokens ``generate()`` kept: those of the sequences that it returned, each of them once.

Assisted decoding runs drafts that are rejected, beam search runs beams that lose, and without a cache every step reads
the whole text again. The noise key of a token stands for all that was read up to it, so the returned token ids say
which of the recorded tokens they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vmoer.errors import VmoerError
from vmoer.rng import prefix_keys

Watcher = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], AbstractContextManager[list[Any]]]


@contextmanager
def watching(model: nn.Module, watcher: Watcher) -> Iterator[None]:
    """Tell ``watcher`` of every call of ``model.generate()`` inside the block, and of what it returned."""
    own, native = vars(model).get("generate"), getattr(model, "generate", None)
    if native is None:
        yield
        return
    inside = False

    def generate(*args: Any, **arguments: Any) -> Any:
        nonlocal inside
        if inside:  # a model that drafts for itself
            return native(*args, **arguments)
        inside = True
        try:
            with watcher(model, args, arguments) as output:
                output.append(native(*args, **arguments))
        finally:
            inside = False
        return output[0]

    vars(model)["generate"] = generate
    try:
        yield
    finally:
        vars(model).pop("generate")
        if own is not None:
            vars(model)["generate"] = own


@dataclass
class Recorded:
    """The real tokens of one forward pass, ``[tokens]`` each, and their ``columns``.

    ``row`` of the batch, ``slot`` in the row (padding and cache counted), ``key`` of everything up to the token.
    ``rows`` is the size of the batch.
    """

    columns: dict[str, Tensor]
    row: Tensor
    slot: Tensor
    key: Tensor
    rows: int


@dataclass(frozen=True)
class Prompt:
    """What ``generate()`` was given: ``rows`` prompts, of ``ids`` token ids each, which it returns, in ``slots``."""

    rows: int
    ids: int
    slots: int


def prompt_of(args: Sequence[Any], arguments: dict[str, Any]) -> Prompt:
    """The prompts in the arguments of ``generate()``."""
    ids = args[0] if args else arguments.get("inputs", arguments.get("input_ids"))
    embeds, cache = arguments.get("inputs_embeds"), arguments.get("past_key_values")
    cached = int(cache.get_seq_length()) if cache is not None else 0
    if embeds is not None:
        return Prompt(embeds.shape[0], ids.shape[1] if ids is not None else 0, max(embeds.shape[1], cached))
    rows, length = ids.shape if ids is not None else (1, 1)  # without a prompt it begins with one token
    return Prompt(rows, length, length if length > cached else cached + length)


def kept(calls: Sequence[Recorded], prompt: Prompt, sequences: Tensor, ends: Sequence[int]) -> dict[str, Tensor]:
    """The columns of the tokens that the returned ``sequences [n, length]`` were read as, sequence after sequence.

    ``example`` numbers the sequences from 0, ``decode`` marks generated tokens. A token after the first of ``ends``
    (end-of-text ids), and that one itself, are left out: whether they run depends on the other rows.
    """
    columns = {name: torch.cat([call.columns[name] for call in calls]) for name in calls[0].columns}
    row, slot, key = (torch.cat([getattr(call, name) for call in calls]) for name in ("row", "slot", "key"))
    expand, copies = calls[0].rows // prompt.rows, sequences.shape[0] // prompt.rows
    first: dict[tuple[int, int], int] = {}
    for number, (at, what) in enumerate(zip(slot.tolist(), key.tolist(), strict=True)):
        if at >= prompt.slots:
            first.setdefault((at, what), number)
    chosen, example = [], []
    for number, sequence in enumerate(sequences.cpu()):
        mine = ((row == number // copies * expand) & (slot < prompt.slots)).nonzero()[:, 0].tolist()
        tokens = list({int(slot[token]): token for token in reversed(mine)}.values())[::-1]
        tokens += _generated(first, prompt, sequence, ends, columns["position"], key, tokens)
        chosen += tokens
        example += [number] * len(tokens)
    index = torch.tensor(chosen, dtype=torch.long)
    found = {name: column[index] for name, column in columns.items()}
    return {**found, "example": torch.tensor(example), "decode": slot[index] >= prompt.slots}


def _generated(
    first: dict[tuple[int, int], int],
    prompt: Prompt,
    sequence: Tensor,
    ends: Sequence[int],
    position: Tensor,
    key: Tensor,
    tokens: list[int],
) -> list[int]:
    """Which recorded tokens the generated part of one returned sequence is; its last token is never fed."""
    new = sequence[prompt.ids :]
    stops = torch.isin(new, torch.tensor(list(ends), dtype=new.dtype)).nonzero()
    fed = min(int(stops[0]) if len(stops) else len(new), len(new) - 1)
    if fed <= 0 or not tokens:
        return []
    last = tokens[-1]
    places = position[last] + 1 + torch.arange(fed)
    keys = prefix_keys(new[None, :fed], places[None], torch.ones(1, fed, dtype=torch.bool), key[last][None])[0]
    found = [first.get((prompt.slots + step, what)) for step, what in enumerate(keys.tolist())]
    if None in found:
        raise VmoerError(
            f"generate() returned a token at position {int(places[found.index(None)])} that no recorded forward pass "
            "read; record the forward passes themselves, without generate()."
        )
    return [token for token in found if token is not None]


def end_tokens(model: Any, arguments: dict[str, Any]) -> list[int]:
    """The token ids that end a text for this call of ``generate()``."""
    for source in (arguments.get("generation_config"), model.generation_config):
        given = arguments.get("eos_token_id", getattr(source, "eos_token_id", None))
        if given is not None:
            return list(torch.as_tensor(given).reshape(-1).tolist())
    return []
