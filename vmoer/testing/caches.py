"""What caches, drafts, beams and packed sequences must satisfy: each kept token once, with the noise of a full pass."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vmoer.architectures import architecture_of
from vmoer.attach import bayesianize
from vmoer.errors import UnsupportedModelError
from vmoer.forward.recorder import record
from vmoer.testing.compare import ATOL, assert_same_decisions, trace_of
from vmoer.testing.tiny import tiny_batch, tiny_model, tiny_row

_NEW = 4
#: a text that repeats itself, so that prompt lookup finds drafts; its tail is no repetition, so that some are rejected
_REPEATING = [7, 8, 9, 7, 8, 9, 7, 8, 9, 10, 7, 8]


def check_beam_search(family: str) -> None:
    """Beam search routes each beam by what that beam read, and records the returned beams, each token once."""
    model = tiny_model(family)
    ids = tiny_row(0)["input_ids"]
    with _routers(family, model), torch.no_grad():
        with record(model) as recorder:
            out = _generate(model, ids, num_beams=3, num_return_sequences=2)
        _assert_recorded(family, model, recorder.trace, out, "beam search")


def check_drafts(family: str) -> None:
    """Prompt-lookup decoding gives the text of plain decoding and records the tokens that were kept, each once."""
    model = tiny_model(family)
    if model._is_stateful:  # transformers refuses drafts for it: its linear attention keeps no past to return to
        return
    ids = torch.tensor([_REPEATING])
    with _routers(family, model), torch.no_grad():
        plain = _generate(model, ids, max_new_tokens=8)
        with record(model) as recorder:
            out = _generate(model, ids, max_new_tokens=8, prompt_lookup_num_tokens=3)
        assert out.tolist() == plain.tolist(), f"{family}: the text depends on whether drafts were tried."
        _assert_recorded(family, model, recorder.trace, out, "drafts")


def check_static_cache(family: str) -> None:
    """A static cache, with its 4-D mask, gives the text and the decisions of the default cache, padding left out."""
    model = tiny_model(family)
    batch = tiny_batch((5, 3))
    with _routers(family, model), torch.no_grad():
        plain = _generate(model, batch["input_ids"], batch["attention_mask"])
        with record(model) as recorder:
            out = _generate(model, batch["input_ids"], batch["attention_mask"], cache_implementation="static")
    trace = recorder.trace
    assert out.tolist() == plain.tolist(), f"{family}: the text depends on the kind of cache."
    counts = [int((trace.example == row).sum()) for row in range(2)]
    assert counts == [5 + _NEW - 1, 3 + _NEW - 1], f"{family}: {counts} tokens recorded with a static cache."
    with _routers(family, model):
        for row, length in enumerate((5, 3)):
            alone = trace_of(model, {"input_ids": out[row : row + 1, 5 - length : -1]})
            assert_same_decisions(alone, trace.take(trace.example == row), f"{family}, static cache")


def check_packing(family: str) -> None:
    """Sequences packed into a row are examples of their own, routed as if alone; refused where the model mixes them."""
    model = tiny_model(family)
    rows = [tiny_row(row)["input_ids"] for row in range(3)]
    packed = {
        "input_ids": torch.cat(rows, dim=1),
        "position_ids": torch.cat([torch.arange(ids.shape[1]) for ids in rows])[None],
        "use_cache": False,
    }
    with torch.no_grad():
        native = model(**packed).logits[0, -rows[-1].shape[1] :]
        mixes = float((native - model(input_ids=rows[-1]).logits[0]).abs().max()) > ATOL
        assert mixes != architecture_of(model).packs, f"{family}: `packs` does not say what the native model does."
    with _routers(family, model), torch.no_grad():
        if mixes:
            assert _refuses(model, packed), f"{family}: packed sequences are accepted, though the model mixes them."
            return
        with record(model) as recorder:
            logits = model(**packed).logits[0]
        start = 0
        for number, ids in enumerate(rows):
            alone = model(input_ids=ids).logits[0]
            found = logits[start : start + ids.shape[1]]
            start += ids.shape[1]
            assert float((alone - found).abs().max()) < ATOL, f"{family}: a packed sequence is routed otherwise."
            trace = recorder.trace
            part = trace.take(trace.example == number)
            assert_same_decisions(trace_of(model, {"input_ids": ids}), part, f"{family}, packed")


def _refuses(model: nn.Module, inputs: dict[str, Any]) -> bool:
    try:
        model(**inputs)
    except UnsupportedModelError:
        return True
    return False


def _generate(model: Any, ids: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    fixed: dict[str, Any] = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    out: Tensor = model.generate(input_ids=ids, attention_mask=mask, **{"max_new_tokens": _NEW, **fixed, **options})
    return out


def _assert_recorded(family: str, model: nn.Module, trace: Any, out: Tensor, what: str) -> None:
    """The trace holds what one long pass over each returned sequence decides, and nothing else."""
    assert len(trace) == out.shape[0] * (out.shape[1] - 1), f"{family}, {what}: {len(trace)} tokens were recorded."
    for number, sequence in enumerate(out):
        alone = trace_of(model, {"input_ids": sequence[None, :-1]})
        assert_same_decisions(alone, trace.take(trace.example == number), f"{family}, {what}")


def _routers(family: str, model: nn.Module) -> Any:
    if architecture_of(model).bayesian_refusal:
        return nullcontext()
    return bayesianize(model, "mfvr", samples=3)
