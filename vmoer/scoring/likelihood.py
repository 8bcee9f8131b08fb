"""How likely a model finds answers after their prompts: in one padded pass, differentiable, or from logits at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Row = tuple[list[int], list[int]]
#: probabilities in float32 that are there at once, 64 MiB
_AT_ONCE = 2**24


def answer_log_probabilities(model: nn.Module, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of next tokens ``[rows, n, vocabulary]`` over the last n positions, where all answers lie.

    ``rows`` are token ids of prompt and answer. With them the tokens that came next ``[rows, n]`` and which of these
    belong to the answer ``[rows, n]``: prompt and padding do not.
    """
    device = next(model.parameters()).device
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    scored = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        start, stop = len(prompt), len(prompt) + len(answer)
        ids[row, :stop] = torch.tensor(prompt + answer)
        mask[row, :stop] = 1
        scored[row, start:stop] = True
    ids, mask, scored = ids.to(device), mask.to(device), scored.to(device)
    shortest = min(len(prompt) + len(answer) for prompt, answer in rows)
    kept = min(max(len(answer) for _, answer in rows) + width - shortest + 1, width)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits[:, -kept:]
    return logits[:, :-1].float().log_softmax(-1), ids[:, width - kept + 1 :], scored[:, width - kept + 1 :]


def log_likelihood(model: nn.Module, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Summed log-likelihood of each answer after its prompt and its number of tokens, both ``[rows]``."""
    log_p, targets, scored = answer_log_probabilities(model, rows)
    chosen = log_p.gather(-1, targets[..., None])[..., 0]
    return (chosen * scored).sum(-1), scored.sum(-1)


def log_probabilities_of(logits: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities ``[copies, n, length]``, float32, of ``targets [n, length]`` at row ``rows[n]`` of
    ``logits [copies, rows, length, vocabulary]``.

    A few rows at a time: a large vocabulary in float32 would be the largest tensor of a pass.
    """
    copies, _, length, vocabulary = logits.shape
    step = max(_AT_ONCE // (copies * length * vocabulary), 1)
    found = []
    for picked, wanted in zip(rows.split(step), targets.split(step), strict=True):
        log_p = logits[:, picked].float().log_softmax(-1)
        found.append(log_p.gather(-1, wanted.expand(copies, -1, -1)[..., None])[..., 0])
    return torch.cat(found, dim=1)
