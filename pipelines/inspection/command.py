"""``vmoer inspect``: the same inspection as the dashboard's, in this process, as rows to print."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import console
from pipelines.errors import SpecError
from pipelines.inspection.compute import Tell, inspect, prompt_ids
from pipelines.jobs.inspections import Request, parse_request
from pipelines.model.resident import Resident, kept
from pipelines.settings import Settings

SHOWS = ("routing", "next", "why")


def rows_of(
    values: Mapping[str, Any],
    why: Mapping[str, Any],
    method: str,
    routers: str,
    layers: str,
    show: str,
    settings: Settings,
    quiet: bool,
) -> list[dict[str, Any]]:
    """Rows of one of :data:`SHOWS` for a method (empty: the deterministic model)."""
    if show not in SHOWS:
        raise SpecError(f"--show {show!r}: give {', '.join(SHOWS)}")
    named = routers in ("shipped", "untrained")
    asked: dict[str, Any] = {
        **values,
        "methods": [method] if method else [],
        "routers": routers if named else "shipped",
        "layers": _layers(layers),
    }
    if show == "why":
        asked |= {"why": {**why, "method": method or "deterministic"}, "methods": []}
    if not named and not method:
        raise SpecError("--routers names a checkpoint: say with --method which method it is of")
    request = parse_request(asked, settings, any_model=True)
    tell = _teller(quiet)
    resident = _resident(request, settings, tell)
    summary, decisions = inspect(resident, request, settings, tell, None if named else Path(routers))
    last = method or "deterministic"
    heads = summary["methods"][last]["heads"]
    if heads == "untrained" and not quiet:
        console.say(f"the {last} heads are untrained: their variances show how things work, not what a model knows")
    if show == "why":
        return _why(summary["why"])
    if show == "next":
        return [
            {"position": entry["position"], **candidate}
            for entry in summary["prompts"][0]["methods"][last]["next"]
            for candidate in entry["candidates"]
        ]
    return [_routing(row) for row in decisions if row["method"] == last]


def shown_prompt(values: Mapping[str, Any], settings: Settings, quiet: bool) -> dict[str, Any]:
    """Return the text that the model reads, its ``token_ids``, and each token as text; nothing is computed."""
    request = parse_request(values, settings, any_model=True)
    resident = _resident(request, settings, _teller(quiet))
    ids = prompt_ids(resident, request.prompts[0], request, settings)
    tokens = [resident.tokenizer.decode([token]) for token in ids]
    return {"text": request.prompts[0], "token_ids": ids, "tokens": tokens}


def _teller(quiet: bool) -> Tell:
    """What says each new message once, unless ``quiet``."""
    said = ""

    def tell(_done: int, _total: int, message: str) -> None:
        nonlocal said
        if message != said and not quiet:
            console.say(message)
        said = message

    return tell


def _resident(request: Request, settings: Settings, tell: Tell) -> Resident:
    path = Path(request.model).expanduser()
    return kept(str(path.absolute()) if os.path.isdir(path) else request.model, "auto", settings, tell)


def _routing(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "position": row["position"],
        "token": row["token"],
        "layer": row["layer"],
        "experts": row["expert_index"],
        "gates": [round(gate, 4) for gate in row["gate_weight"]],
        "native_experts": row["base_expert_index"],
        "routing_entropy": round(row["routing_entropy"], 4),
        "logit_variance": row["logit_variance"],
        "chosen": row["chosen"],
    }


def _why(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per token, then what the values add up to and what they should."""
    spread = found["spread"] or [None] * len(found["values"])
    rows: list[dict[str, Any]] = [
        {"position": place, "token": token, "value": value, "standard_error": error}
        for place, (token, value, error) in enumerate(zip(found["tokens"], found["values"], spread, strict=True))
    ]
    change = found["value"] - found["baseline_value"]
    verdict = "complete" if found["complete"] else f"not complete: {found['delta']:+.4g} is unexplained"
    rows.append({"position": None, "token": f"({verdict})", "value": change, "standard_error": None})
    return rows


def _layers(text: str) -> str | list[int] | None:
    if not text:
        return None
    parts = [part.strip() for part in text.split(",")]
    return [int(part) for part in parts] if all(part.isascii() and part.isdigit() for part in parts) else text
