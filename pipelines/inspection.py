"""How a prompt is routed, token by token: what ``vmoer inspect`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import vmoer
from pipelines.errors import DataError
from pipelines.models import load
from pipelines.settings import Settings
from vmoer.handle import evaluation


def routing_rows(text: str, model_name: str, routers: str, settings: Settings) -> list[dict[str, Any]]:
    """One row per token and MoE layer, in order; variances are there when ``routers`` names a checkpoint."""
    if len(text) > settings.max_prompt_chars:
        raise DataError(f"the prompt has {len(text)} characters; at most {settings.max_prompt_chars} are allowed")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError("the prompt holds a lone surrogate, which is no character") from None
    device = None if settings.device == "auto" else settings.device
    model, tokenizer = load(model_name, device=device)
    ids = tokenizer(text, return_tensors="pt").to(model.device)
    if not ids["input_ids"].numel():
        return []
    handle = vmoer.load_routers(model, Path(routers)) if routers else None
    with evaluation(model), torch.inference_mode(), vmoer.record(model) as recorder:
        model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], logits_to_keep=1)
    if handle is not None:
        handle.restore()
    trace = recorder.trace
    columns = trace.decisions()
    rows = []
    for place in range(trace.n_rows):
        token = int(columns["token"][place])
        variance = columns["logit_variance"][place]
        rows.append(
            {
                "position": int(trace.position[token]),
                "token": tokenizer.decode([int(trace.token_id[token])]),
                "layer": int(columns["layer"][place]),
                "experts": [int(expert) for expert in columns["expert_index"][place]],
                "gates": [round(float(gate), 4) for gate in columns["gate_weight"][place]],
                "native_experts": [int(expert) for expert in columns["base_expert_index"][place]],
                "routing_entropy": round(float(columns["routing_entropy"][place]), 4),
                "logit_variance": None if variance is not variance or str(variance) == "--" else float(variance),
            }
        )
    return rows
