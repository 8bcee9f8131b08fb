"""Print ``docs/cli.md``, made from the commands, the settings and the spec."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from pipelines.cli import app as cli
from pipelines.settings import FIELDS, variables
from pipelines.spec import model as spec

_MODELS = (
    spec.Spec,
    spec.Data,
    spec.DataSource,
    spec.Routers,
    spec.Training,
    spec.MapRouters,
    spec.Adapter,
    spec.FineTuning,
    spec.Noise,
    spec.Leverage,
)

_MEANING = {
    "Spec.name": "what runs of this experiment are called",
    "Spec.model": "bundled name, folder or hub id; a relative folder is looked for beside the spec first",
    "Spec.methods": "one run each; the deterministic baseline is always added",
    "Spec.options": "constructor options by method",
    "Spec.layers": "all, auto, last:n, susceptible:n, leverage:n, random:n:draw, a list; else those of the checkpoint",
    "Spec.estimators": "in-router, closed-form, predictive; one run each",
    "Spec.samples": "routing samples of the in-router estimator",
    "Spec.predictive_samples": "passes of the predictive estimator; left out: min(samples, 8)",
    "Spec.predictive_positions": "where the passes sample routing: all, or (cheaper) only those that are scored",
    "Spec.controls": "untrained, beta-zero, non-routing-noise, moe-noise; beside every Bayesian method",
    "Spec.adapter": "shipped, shipped:<set>, a folder, or {train: …}; left out: the model as loaded",
    "Spec.map_routers": "fine-tuned native routers: shipped, shipped:<set>, a folder, or {train: …}",
    "Spec.base": "which routers the Bayesian ones stand on: pretrained or map",
    "Spec.routers": "shipped, shipped:<set>, untrained, a folder, or {train: …}",
    "Spec.data": "question sets by role",
    "Spec.scoring": "likelihood (of the option's text) or letter",
    "Spec.normalise": "likelihood per token (true) or of the whole option",
    "Spec.stages": "trace, susceptibility, leverage, evaluate, ood, efficiency",
    "Spec.noise": "the susceptibility stage",
    "Spec.leverage": "the leverage stage",
    "Spec.dtype": "of the weights: auto, float32, bfloat16 or float16; routing is float32 always",
    "Spec.truncate": "left: cut the first tokens of prompts longer than the model can read; left out: refuse them",
    "Spec.store_text": "store prompts, options and token texts (hashes are stored always)",
    "Spec.batch_tokens": "prompt tokens of a forward pass; on a GPU up to four times as many, as its memory allows",
    "Spec.bootstrap": "resamples behind every interval",
    "Spec.seed": "of sampling and resampling",
    "Data.id": "in-distribution set",
    "Data.near": "near-OoD sets",
    "Data.far": "far-OoD sets",
    "Data.validation": "fits the temperature; left out: cross-fitted by question id",
    "DataSource.path": "file or folder of questions (Parquet, CSV, JSON, JSON lines; `docs/data.md`), or a file of "
    "prompts without answers for the stages trace and susceptibility; a relative path is looked for beside the spec "
    "first",
    "DataSource.name": "built-in set: worldfacts",
    "DataSource.hub": "hub data set id (needs the extra `hub`)",
    "DataSource.split": "split of a built-in or hub set",
    "DataSource.config": "configuration of a hub set",
    "DataSource.as": "name of the set; left out: file stem or split",
    "DataSource.limit": "the questions with the smallest SHA-256 of their id",
    "DataSource.skip": "leave out the first questions of that order: those that a limit of as many has used",
    "DataSource.where": "keep only rows with this subject or source",
    "DataSource.tenths": "only questions whose id hash falls in these tenths, e.g. [0, 5]: splits a set without splits",
    "DataSource.normalise": "overrides the spec's `normalise` for this set",
    "Routers.source": "what a plain text in `routers` means: shipped, shipped:<set>, untrained or a folder",
    "Routers.train": "train first",
    "FineTuning.data": "training questions, none of which the experiment evaluates",
    "FineTuning.validation": "questions that choose the best step, none of them trained on",
    "FineTuning.epochs": "passes over the data",
    "FineTuning.batch_size": "questions per optimiser step",
    "FineTuning.micro_batch": "texts per pass: one per question, or per option with loss choice, times the draws",
    "FineTuning.learning_rate": "of AdamW",
    "FineTuning.warmup": "share of the steps",
    "FineTuning.weight_decay": "of AdamW",
    "FineTuning.patience": "evaluations without improvement before it stops",
    "FineTuning.evaluate_every": "steps",
    "FineTuning.loss": "answer (its tokens) or choice (the right option among all)",
    "FineTuning.data_seed": "of the order of the questions, and of an adapter's first weights",
    "Training.data": "training questions, none of which the experiment evaluates",
    "Training.validation": "questions that choose the best step, none of them trained on",
    "Training.epochs": "passes over the data",
    "Training.batch_size": "questions per optimiser step",
    "Training.micro_batch": "texts per pass: one per question, or per option with loss choice, times the draws",
    "Training.learning_rate": "of AdamW",
    "Training.warmup": "share of the steps",
    "Training.weight_decay": "of AdamW",
    "Training.patience": "evaluations without improvement before it stops",
    "Training.evaluate_every": "steps",
    "Training.loss": "answer (its tokens) or choice (the right option among all)",
    "Training.data_seed": "of the order of the questions, and of an adapter's first weights",
    "Training.beta": "weight of the KL to the prior",
    "Training.kl_warmup": "share of the steps over which beta rises from 0",
    "Training.objective": "expected (mean of −log p over draws) or averaged (−log of the mean of p)",
    "Training.draws": "routing draws per question and step",
    "Training.progressive": "one layer at a time, the deepest first",
    "Training.tune_noise": "afterwards choose the multiple of σ with the lowest validation NLL of averaged answers",
    "Training.sampling_seed": "of the routing draws and of the heads' first weights",
    "MapRouters.source": "what a plain text means: shipped, shipped:<set> or a folder",
    "MapRouters.train": "train first",
    "MapRouters.layers": "whose routers are fine-tuned",
    "Adapter.source": "what a plain text means: shipped, shipped:<set> or a folder",
    "Adapter.train": "train first",
    "Adapter.rank": "of the low-rank factors on q, k and v",
    "Adapter.alpha": "the product is scaled by alpha ÷ rank",
    "Noise.gammas": "noise levels: σ = γ × RMS norm of the router's input",
    "Noise.modes": "router, propagated, redrawn (router, with another routing draw in the disturbed pass)",
    "Noise.limit": "in-distribution questions",
    "Leverage.draws": "independent random routings per layer",
    "Leverage.limit": "in-distribution questions",
    "Leverage.zero_block": "also measure each block's output removed",
}


def markdown() -> str:
    """The whole page."""
    return "\n".join([*_head(), *_commands(), *_spec(), *_settings()]) + "\n"


def _head() -> Iterator[str]:
    yield "# Command line"
    yield ""
    yield "Made by `python -m pipelines.cli.reference`; a test keeps it in step with the code."
    yield ""
    yield " ".join((cli.__doc__ or "").split("\n\n")[1].split())


def _commands() -> Iterator[str]:
    yield from ("", "## Commands")
    for name, command in leaves(cli.command_tree(), "vmoer"):
        yield from ("", f"### `{name}`", "", inspect.cleandoc(command.help or ""))
        rows = list(_parameters(command))
        if rows:
            yield from ("", "| | default | |", "| --- | --- | --- |", *rows)


def leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its full name."""
    children: dict[str, Any] = getattr(command, "commands", {})
    if not children or (command.invoke_without_command and " " in path):
        yield path, command
    for name in sorted(children):
        yield from leaves(children[name], f"{path} {name}")


def _parameters(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.name == "help":
            continue
        argument = parameter.param_type_name == "argument"
        shown = (
            (parameter.name or "").upper().rstrip("_")
            if argument
            else ", ".join(parameter.opts + parameter.secondary_opts)
        )
        default = "" if parameter.default in (None, False, "") or parameter.required else f"`{parameter.default}`"
        default = "required" if parameter.required else default
        yield f"| `{shown}` | {default} | {parameter.help or ''} |"


def _spec() -> Iterator[str]:
    yield from (
        "",
        "## Spec",
        "",
        "Unknown keys, duplicate keys, aliases and tags are refused, with the key's full path.",
    )
    for model in _MODELS:
        yield from ("", f"### {model.__name__}", "", inspect.cleandoc(model.__doc__ or ""), "")
        yield from ("| key | default | |", "| --- | --- | --- |")
        for name, field in model.model_fields.items():
            key = field.alias or name
            yield f"| `{key}` | {_default(field)} | {_MEANING[f'{model.__name__}.{key}']} |"


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        return "see below" if not isinstance(value, spec.Routers) else "`shipped`"
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _settings() -> Iterator[str]:
    yield from ("", "## Settings", "", "Read from the environment.", "")
    yield from ("| variable | default | |", "| --- | --- | --- |")
    names = variables()
    for name, field in FIELDS.items():
        yield f"| `{names[name]}` | `{field.default}` | {field.description} |"


if __name__ == "__main__":
    print(markdown(), end="")
