"""The command `vmoer inspect`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from pipelines import console
from pipelines.cli.root import Device, Json
from pipelines.inspection.command import rows_of, shown_prompt
from pipelines.settings import load_settings


def inspect(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "worldfacts-moe",
    method: Annotated[str, typer.Option(help="Routing method; the deterministic model is shown beside it.")] = "",
    routers: Annotated[
        str, typer.Option(help="shipped (fresh heads where there are none), untrained, or a folder.")
    ] = "shipped",
    layers: Annotated[str, typer.Option(help="all, last:n or indices such as 3,4; left out: the routers' own.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="Routing samples.")] = 35,
    new_tokens: Annotated[int, typer.Option(min=0, help="Tokens to generate.")] = 0,
    show: Annotated[str, typer.Option(help="routing, next (the next-token distribution), or why.")] = "routing",
    quantity: Annotated[
        str, typer.Option(help="What `why` explains: logit_variance, routing_entropy or expert_logit.")
    ] = "logit_variance",
    at_layer: Annotated[int, typer.Option(min=0, help="Layer of `why`.")] = 0,
    position: Annotated[int, typer.Option(min=0, help="Token of `why`, counted from 0.")] = 0,
    algorithm: Annotated[str, typer.Option(help="ablation, or shapley, which adds up.")] = "ablation",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the routing samples.")] = 0,
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Print the text the model reads with its token ids, nothing else.")
    ] = False,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Print how each token of a prompt is routed, what follows it, or which tokens make it uncertain."""
    values = {"model": model, "prompts": [text], "samples": samples, "new_tokens": new_tokens, "seed": seed}
    why = {"layer": at_layer, "position": position, "quantity": quantity, "algorithm": algorithm}
    settings = replace(load_settings(), device=device)
    if show_prompt:
        _print_prompt(shown_prompt(values, settings, quiet=json_), json_)
        return
    rows = rows_of(values, why, method, routers, layers, show, settings, quiet=json_)
    console.print_rows(rows, json_, "the prompt has no tokens")


def _print_prompt(shown: dict[str, Any], as_json: bool) -> None:
    """The text as it is, line by line, and its tokens as a table; or all of it as JSON."""
    if as_json:
        console.print_json(shown)
        return
    for line in shown["text"].split("\n"):
        print(console.clean(line))
    tokens = enumerate(zip(shown["token_ids"], shown["tokens"], strict=True))
    rows = [{"position": place, "token_id": number, "token": token} for place, (number, token) in tokens]
    console.print_rows(rows, as_json, "the prompt has no tokens")
