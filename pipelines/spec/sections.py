"""The sections of a spec below its top level: question sets, training, weights, noise and leverage."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Role = Literal["in-distribution", "near-ood", "far-ood", "validation"]
_LAYERS = re.compile(r"all|auto|(last|susceptible|leverage):[1-9]\d{0,3}|random:[1-9]\d{0,3}:\d{1,3}")
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_TEXT = r"^[^\x00-\x1f\x7f]+$"  # a name or path on one line: no control characters reach a terminal or a file name


class Part(BaseModel):
    """One mapping of a spec: strict types, no unknown keys, no change after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


def _layers(value: object) -> object:
    """``None``, ``all``, ``auto``, ``last:n``, ``susceptible:n``, ``leverage:n``, ``random:n:draw`` or a list."""
    rule = "give all, auto, last:n, susceptible:n, leverage:n, random:n:draw or a list of block indices such as [3, 4]"
    if value is None:
        return value
    if isinstance(value, str):
        if not _LAYERS.fullmatch(value):
            raise ValueError(f"{value[:60]!r} is no layer selection; {rule}")
        return value
    if not isinstance(value, list) or not value:
        raise ValueError(f"not a layer selection; {rule}")
    if any(type(layer) is not int or not 0 <= layer < 10_000 for layer in value):
        raise ValueError(f"layers are block indices from 0; {rule}")
    if len(set(value)) != len(value):
        raise ValueError("a layer is listed twice")
    return sorted(value)


def distinct(value: object) -> object:
    """Return the value; refuse a list with an entry twice."""
    if isinstance(value, list):
        texts = [str(item) for item in value]
        for text in texts:
            if texts.count(text) > 1:
                raise ValueError(f"{text!r} is listed twice")
    return value


def source_or_training(value: object) -> object:
    """Return a plain text as ``{source: text}``, anything else as it is."""
    return {"source": value} if isinstance(value, str) else value


Layers = Annotated[Any, BeforeValidator(_layers)]
Text = Annotated[str, Field(min_length=1, max_length=1000, pattern=_TEXT)]
MethodName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]


class DataSource(Part):
    """One question set: exactly one of ``path`` (file or folder), ``name`` (built-in) or ``hub`` (data set id)."""

    path: Text | None = Field(
        default=None,
        description="file or folder of questions (Parquet, CSV, JSON, JSON lines; `docs/data.md`), or a file of "
        "prompts without answers for the stages trace and susceptibility; a relative path is looked for beside the "
        "spec first",
    )
    name: Text | None = Field(default=None, description="built-in set: worldfacts")
    hub: Text | None = Field(default=None, description="hub data set id (needs the extra `hub`)")
    split: Text | None = Field(default=None, description="split of a built-in or hub set")
    config: Text | None = Field(default=None, description="configuration of a hub set")
    label: Annotated[str, Field(pattern=NAME)] | None = Field(
        default=None, alias="as", description="name of the set; left out: file stem or split"
    )
    limit: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None, description="the questions with the smallest SHA-256 of their id"
    )
    # came later: left out where it is not used, so that older specs keep their identity
    skip: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="leave out the first questions of that order: those that a limit of as many has used",
    )
    where: dict[str, str] | None = Field(default=None, description="keep only rows with this subject or source")
    tenths: Annotated[list[Annotated[int, Field(ge=0, le=10)]], Field(min_length=2, max_length=2)] | None = Field(
        default=None,
        description="only questions whose id hash falls in these tenths, e.g. [0, 5]: splits a set without splits",
    )
    normalise: bool | None = Field(default=None, description="overrides the spec's `normalise` for this set")

    @model_validator(mode="after")
    def _one_source(self) -> DataSource:
        given = [key for key in ("path", "name", "hub") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, name or hub (found {', '.join(given) or 'none'})")
        if self.name is not None and self.split is None:
            raise ValueError("a built-in set needs `split`, for instance {name: worldfacts, split: test}")
        if self.where is not None and set(self.where) - {"subject", "source"}:
            raise ValueError("`where` filters on subject or source, for instance {subject: professional_law}")
        if self.tenths is not None and self.tenths[0] >= self.tenths[1]:
            raise ValueError("`tenths` is a range of 0 to 10 whose end is not included, for instance [0, 5]")
        return self


class Data(Part):
    """The question sets of an experiment by role; ``id`` is the in-distribution set."""

    id: DataSource = Field(description="in-distribution set")
    near: list[DataSource] = Field(default=[], description="near-OoD sets")
    far: list[DataSource] = Field(default=[], description="far-OoD sets")
    validation: DataSource | None = Field(
        default=None, description="fits the temperature; left out: cross-fitted by question id"
    )

    def by_role(self) -> list[tuple[Role, DataSource]]:
        """``(role, source)`` in the order they are evaluated: validation first, as temperatures are fitted on it."""
        rows: list[tuple[Role, DataSource]] = []
        if self.validation is not None:
            rows.append(("validation", self.validation))
        rows.append(("in-distribution", self.id))
        rows += [("near-ood", source) for source in self.near]
        return rows + [("far-ood", source) for source in self.far]


class FineTuning(Part):
    """How an adapter or MAP routers are trained; the defaults are the library's.

    ``data`` and ``validation`` are question sets of their own: training never sees the experiment's questions.
    """

    data: DataSource = Field(description="training questions, none of which the experiment evaluates")
    validation: DataSource = Field(description="questions that choose the best step, none of them trained on")
    epochs: int = Field(default=3, ge=1, le=1000, description="passes over the data")
    batch_size: int = Field(default=16, ge=1, le=4096, description="questions per optimiser step")
    micro_batch: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="texts per pass: one per question, or per option with loss choice, times the draws",
    )
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="of AdamW")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(default=0.0, ge=0, le=10, description="of AdamW")
    patience: int = Field(default=3, ge=1, le=10_000, description="evaluations without improvement before it stops")
    evaluate_every: int = Field(default=20, ge=1, le=1_000_000, description="steps")
    loss: Literal["answer", "choice"] = Field(
        default="answer", description="answer (its tokens) or choice (the right option among all)"
    )
    data_seed: int = Field(
        default=0, ge=0, lt=2**63, description="of the order of the questions, and of an adapter's first weights"
    )


class Training(FineTuning):
    """How Bayesian routers are trained before they are evaluated; the defaults are the library's."""

    beta: float = Field(default=0.01, ge=0, le=1e6, description="weight of the KL to the prior")
    kl_warmup: float = Field(default=0.0, ge=0, le=1, description="share of the steps over which beta rises from 0")
    objective: Literal["expected", "averaged"] = Field(
        default="expected", description="expected (mean of −log p over draws) or averaged (−log of the mean of p)"
    )
    draws: int = Field(default=1, ge=1, le=1000, description="routing draws per question and step")
    progressive: bool = Field(default=False, description="one layer at a time, the deepest first")
    tune_noise: bool = Field(
        default=False,
        description="afterwards choose the multiple of σ with the lowest validation NLL of averaged answers",
    )
    sampling_seed: int = Field(
        default=0, ge=0, lt=2**63, description="of the routing draws and of the heads' first weights"
    )


class Routers(Part):
    """Where router weights come from: ``shipped``, ``shipped:<set>``, a folder, or training them first."""

    source: Text | None = Field(
        default=None, description="what a plain text in `routers` means: shipped, shipped:<set>, untrained or a folder"
    )
    train: Training | None = Field(default=None, description="train first")

    @model_validator(mode="after")
    def _one(self) -> Routers:
        if (self.source is None) == (self.train is None):
            raise ValueError("give `shipped`, a folder, or {train: {data: …}}")
        return self


class MapRouters(Part):
    """Native routers fine-tuned with plain cross-entropy: ``shipped``, ``shipped:<set>``, a folder, or {train: …}."""

    source: Text | None = Field(default=None, description="what a plain text means: shipped, shipped:<set> or a folder")
    train: FineTuning | None = Field(default=None, description="train first")
    layers: Layers = Field(default="all", description="whose routers are fine-tuned")

    @model_validator(mode="after")
    def _one(self) -> MapRouters:
        if (self.source is None) == (self.train is None):
            raise ValueError("give `shipped`, a folder, or {train: {data: …}}")
        return self


class Adapter(Part):
    """A LoRA adapter on the attention projections: ``shipped``, ``shipped:<set>``, a folder, or training it first."""

    source: Text | None = Field(default=None, description="what a plain text means: shipped, shipped:<set> or a folder")
    train: FineTuning | None = Field(default=None, description="train first")
    rank: int = Field(default=16, ge=1, le=1024, description="of the low-rank factors on q, k and v")
    alpha: int = Field(default=16, ge=1, le=4096, description="the product is scaled by alpha ÷ rank")

    @model_validator(mode="after")
    def _one(self) -> Adapter:
        if (self.source is None) == (self.train is None):
            raise ValueError("give `shipped`, a folder, or {train: {data: …}}")
        return self


class Noise(Part):
    """The susceptibility stage: noise levels γ, how noise spreads, and on how many ID questions."""

    gammas: list[Annotated[float, Field(ge=0, le=10)]] = Field(
        default=[
            0.001,
            0.01,
            0.02,
            0.05,
            0.1,
        ],
        min_length=1,
        max_length=32,
        description="noise levels: σ = γ × RMS norm of the router's input",
    )
    modes: Annotated[
        list[Literal["router", "propagated", "redrawn"]], Field(min_length=1), BeforeValidator(distinct)
    ] = Field(
        default=["router"],
        description="router, propagated, redrawn (router, with another routing draw in the disturbed pass)",
    )
    limit: int = Field(default=64, ge=1, le=1_000_000, description="in-distribution questions")


class Leverage(Part):
    """The leverage stage: independent random routings per layer, on how many ID questions."""

    draws: int = Field(default=3, ge=3, le=1000, description="independent random routings per layer")
    limit: int = Field(default=200, ge=1, le=1_000_000, description="in-distribution questions")
    zero_block: bool = Field(default=True, description="also measure each block's output removed")
