"""How prompts are routed, token by token, and what the routing samples make of the next token.

The *decisions* are one row per prompt, method, token and MoE layer: the columns of table ``routing`` with ``token`` and
``phase`` (prefill or decode), and ``chosen``, the number of routing samples in which each expert was among the k. The
*summary* says what was asked and holds the next-token distributions, of the deterministic model and averaged over the
samples, and the generated text. Used by the worker for the dashboard and by ``vmoer inspect``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vmoer
from pipelines.errors import DataError, SpecError
from pipelines.jobs.inspections import Request
from pipelines.model.resident import Resident
from pipelines.settings import Settings
from pipelines.spec.shipped import shipped_folder
from vmoer.attach import choose_layers
from vmoer.forward.modes import evaluation
from vmoer.forward.trace import RoutingTrace
from vmoer.handle import Handle
from vmoer.layers import describe
from vmoer.measure.attribution import attribute
from vmoer.models.context_limit import context_limit
from vmoer.routers.base import routers
from vmoer.scoring.answer_tokens import prompt_tokens
from vmoer.scoring.samples import SampledRouting, sample_routing

#: ``tell(done, total, message)``; may raise to stop
Tell = Callable[[int, int, str], None]

NATIVE = "deterministic"
_CANDIDATES = 10
_BATCH_TOKENS = 4096


def inspect(
    resident: Resident, request: Request, settings: Settings, tell: Tell, folder: Path | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """``(summary, decisions)`` of a request; the model is left as it was. ``folder`` is a router checkpoint to use."""
    started = time.monotonic()
    encoded = [prompt_ids(resident, text, request, settings) for text in request.prompts]
    summary: dict[str, Any] = {
        "model": request.model,
        "synthetic": bool(resident.identity["synthetic"]),
        "weights_sha256": resident.identity["weights_sha256"],
        "device": resident.device_name,
        "dtype": resident.dtype,
        "moe_layers": resident.moe_layers,
        "n_experts": max(site.n_experts for site in resident.sites),
        "top_k": max(site.top_k for site in resident.sites),
        "samples": request.samples,
        "seed": request.seed,
        "version": vmoer.__version__,
        "methods": {},
        "prompts": [{"text": text, "methods": {}} for text in request.prompts],
        "why": None,
    }
    rows: list[dict[str, Any]] = []
    if request.why is not None:
        summary["why"] = _explain(resident, request, encoded[0], summary, tell, folder)
    else:
        _inspect_all(resident, request, encoded, summary, rows, tell, folder)
    summary["seconds"] = round(time.monotonic() - started, 3)
    return summary, rows


def _inspect_all(
    resident: Resident,
    request: Request,
    encoded: list[list[int]],
    summary: dict[str, Any],
    rows: list[dict[str, Any]],
    tell: Tell,
    folder: Path | None,
) -> None:
    methods = [NATIVE, *(method for method in request.methods if method != NATIVE)]
    each = 1 + request.new_tokens
    total = len(encoded) * (each + (each + request.samples) * (len(methods) - 1))
    done = 0
    for method in methods:
        with applied(resident, request, method, folder) as (handle, heads):
            summary["methods"][method] = heads
            for number, ids in enumerate(encoded):
                check = partial(tell, done, total, f"{method}, prompt {number + 1} of {len(encoded)}")
                found = _look(resident, ids, handle, request, check)
                rows += _decisions(number, method, found)
                summary["prompts"][number]["n_tokens"] = len(ids)
                summary["prompts"][number]["methods"][method] = {
                    "generated": resident.tokenizer.decode(found.sequence[len(ids) :]),
                    "next": _next_tokens(resident, found, len(ids)),
                }
                done += each + (request.samples if handle is not None else 0)


@dataclass(frozen=True)
class _Found:
    """One prompt under one method: ``sequence`` is the prompt with what was generated, ``texts`` its tokens."""

    sequence: list[int]
    texts: list[str]
    trace: RoutingTrace
    native: SampledRouting
    sampled: SampledRouting


def _look(
    resident: Resident, ids: list[int], handle: Handle | None, request: Request, check: Callable[[], None]
) -> _Found:
    sequence, trace = _route(resident, ids, request.new_tokens, check)
    sample = partial(
        sample_routing,
        resident.model,
        torch.tensor(sequence, device=resident.device_name),
        last=len(sequence) - len(ids) + 1,
        batch_tokens=_BATCH_TOKENS,
        check=check,
    )
    sampled = sample(handle=handle, samples=1 if handle is None else request.samples)
    native = sampled
    if handle is not None:
        with handle.deterministic():
            native = sample()
    texts = [resident.tokenizer.decode([token]) for token in sequence]
    return _Found(sequence, texts, trace, native, sampled)


@contextmanager
def applied(
    resident: Resident, request: Request, method: str, folder: Path | None
) -> Iterator[tuple[Handle | None, dict[str, Any]]]:
    """The model with a method's routers on it, and what these are: ``heads`` and ``layers``."""
    with resident.native() as model:
        if method == NATIVE:
            yield None, {"heads": "native", "layers": []}
            return
        trainable = routers.get(method).trainable
        heads = "given" if folder is not None else "untrained" if trainable else "without parameters"
        if folder is None and trainable and request.routers == "shipped":
            folder = shipped_folder(request.model, method)
            heads = "shipped" if folder is not None else heads
        if folder is not None:
            handle = vmoer.load_routers(model, folder, samples=request.samples, seed=request.seed)
        else:
            layers = "all" if request.layers is None else request.layers
            handle = vmoer.bayesianize(model, method, layers=layers, samples=request.samples, seed=request.seed)
        with handle:
            if folder is not None and request.layers is not None:
                asked = choose_layers(model, request.layers, None)
                if asked != handle.layers:
                    raise SpecError(
                        f"layers: the {heads} {method} routers were trained for layers {describe(handle.layers)}, not "
                        f"{describe(asked)}; leave the layers out, or take untrained heads"
                    )
            yield handle, {"heads": heads, "layers": handle.layers}


def prompt_ids(resident: Resident, text: str, request: Request, settings: Settings) -> list[int]:
    """Token ids of a prompt of the request as the model reads them; refused where they are none or too many."""
    ids = prompt_tokens(resident.tokenizer, text)
    place = "the prompt" if len(request.prompts) == 1 else f"prompt {request.prompts.index(text) + 1}"
    if not ids:
        raise DataError(f"{place} has no tokens")
    if len(ids) > settings.live_tokens:
        raise DataError(
            f"{place} has {len(ids):,} tokens; at most {settings.live_tokens:,} are inspected live (VMOER_LIVE_TOKENS)"
        )
    longest, new = context_limit(resident.model.config), request.new_tokens
    if longest is not None and len(ids) + new > longest:
        raise DataError(
            f"{place} has {len(ids):,} tokens{f', with {new:,} new ones' if new else ''}; {request.model} can read "
            f"{longest:,}"
        )
    return ids


def _route(
    resident: Resident, ids: list[int], new_tokens: int, check: Callable[[], None]
) -> tuple[list[int], RoutingTrace]:
    """Prompt and greedily generated tokens, and how each was routed; ends before an end-of-text token."""
    from transformers import DynamicCache

    model, device = resident.model, resident.device_name
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    sequence = list(ids)
    cache = DynamicCache(config=model.config)
    with evaluation(model), torch.inference_mode(), vmoer.record(model) as recorder:
        step = ids
        for number in range(new_tokens + 1):
            check()
            output = model(
                input_ids=torch.tensor([step], device=device),
                attention_mask=torch.ones(1, len(sequence), dtype=torch.long, device=device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            token = int(output.logits[0, -1].argmax())
            if number == new_tokens or token in ends:
                break
            sequence.append(token)
            step = [token]
    return sequence, recorder.trace


def _decisions(prompt: int, method: str, found: _Found) -> Iterator[dict[str, Any]]:
    trace = found.trace
    columns = trace.decisions()
    layers = len(trace.layers)
    for place in range(trace.n_rows):
        token = int(columns["token"][place])
        row: dict[str, Any] = {
            "prompt": prompt,
            "method": method,
            "position": int(trace.position[token]),
            "token_id": int(trace.token_id[token]),
            "token": found.texts[token],
            "phase": "decode" if trace.decode[token] else "prefill",
            "layer": int(columns["layer"][place]),
        }
        for name in ("expert_index", "gate_weight", "base_expert_index"):
            row[name] = columns[name][place].tolist()
        row["overlap"] = int(columns["overlap"][place])
        for name in ("top_k_margin", "routing_entropy", "logit_variance", "logit_variance_mc", "temperature"):
            value = columns[name][place]
            row[name] = None if value is np.ma.masked else float(value)
        row["chosen"] = found.sampled.chosen[token, place % layers].tolist()
        yield row


def _next_tokens(resident: Resident, found: _Found, prompt: int) -> list[dict[str, Any]]:
    """One entry per predicted position: entropies in nats, and the most probable tokens under either model."""
    entries = []
    sampled = found.sampled
    for number in range(len(found.sequence) - prompt + 1):
        plain, mean = found.native.probability[number], sampled.probability[number]
        after = prompt + number
        best = np.argsort(-np.maximum(plain, mean), kind="stable")[:_CANDIDATES]
        candidates = []
        for token in sorted(best.tolist(), key=lambda token: -mean[token]):
            low = high = None
            if number == 0:  # the samples are kept for the first token after the prompt only
                low, high = (float(bound) for bound in np.quantile(sampled.first[:, token], (0.1, 0.9)))
            candidates.append(
                {
                    "token_id": int(token),
                    "token": resident.tokenizer.decode([int(token)]),
                    "native": float(plain[token]),
                    "mean": float(mean[token]),
                    "low": low,
                    "high": high,
                }
            )
        entries.append(
            {
                "position": prompt - 1 + number,
                "taken": found.texts[after] if after < len(found.sequence) else None,
                "native_entropy": float(found.native.predictive_entropy[number]),
                "predictive_entropy": float(sampled.predictive_entropy[number]),
                "expected_entropy": float(sampled.expected_entropy[number]),
                "mutual_information": float(sampled.mutual_information[number]),
                "candidates": candidates,
            }
        )
    return entries


def _explain(
    resident: Resident, request: Request, ids: list[int], summary: dict[str, Any], tell: Tell, folder: Path | None
) -> dict[str, Any]:
    """The attribution a request asks for, as plain JSON values."""
    why = request.why
    assert why is not None
    if why.position >= len(ids):
        raise DataError(f"the prompt has {len(ids)} tokens, there is none at position {why.position}")
    baseline = int(resident.tokenizer.pad_token_id)
    length = why.position + 1
    total = length + 3 if why.algorithm == "ablation" else (length + 1) * why.permutations + 2
    with applied(resident, request, why.method, folder) as (_, heads):
        summary["methods"][why.method] = heads
        found = attribute(
            resident.model,
            torch.tensor(ids, device=resident.device_name),
            layer=why.layer,
            position=why.position,
            quantity=why.quantity,
            baseline=baseline,
            algorithm=why.algorithm,
            permutations=why.permutations,
            seed=request.seed,
            batch_tokens=_BATCH_TOKENS,
            check=lambda asked: tell(min(asked, total), total, f"{why.algorithm}, {length} tokens"),
        )
    return {
        **why.model_dump(),
        "tokens": [resident.tokenizer.decode([token]) for token in ids[:length]],
        "baseline_token": resident.tokenizer.decode([baseline]),
        "values": found.values.tolist(),
        "spread": None if why.algorithm == "ablation" else found.spread.tolist(),
        "value": found.value,
        "baseline_value": found.baseline_value,
        "delta": found.delta,
        "incomplete": found.incomplete if np.isfinite(found.incomplete) else None,
        "complete": found.complete,
        "prompts_asked": found.rows,
    }
