"""The experiment spec: what a YAML file may say, what is refused, and the identity (hash) of what it says."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipelines.errors import SpecError
from pipelines.settings import Settings, load_settings
from pipelines.spec import yamlfile
from pipelines.spec.explain import explain
from pipelines.spec.stage_table import DEFAULT, LISTED

Estimator = Literal["in-router", "closed-form", "predictive"]
Control = Literal["untrained", "beta-zero", "non-routing-noise", "moe-noise"]
CONTROLS: tuple[Control, ...] = get_args(Control)
Role = Literal["in-distribution", "near-ood", "far-ood", "validation"]

_LAYERS = re.compile(r"all|auto|(last|susceptible|leverage):[1-9]\d{0,3}|random:[1-9]\d{0,3}:\d{1,3}")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_TEXT = r"^[^\x00-\x1f\x7f]+$"  # a name or path on one line: no control characters reach a terminal or a file name


class _Part(BaseModel):
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


def _distinct(value: object) -> object:
    if isinstance(value, list):
        texts = [str(item) for item in value]
        for text in texts:
            if texts.count(text) > 1:
                raise ValueError(f"{text!r} is listed twice")
    return value


def _routers(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


Layers = Annotated[Any, BeforeValidator(_layers)]
Text = Annotated[str, Field(min_length=1, max_length=1000, pattern=_TEXT)]
MethodName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]


class DataSource(_Part):
    """One question set: exactly one of ``path`` (file or folder), ``name`` (built-in) or ``hub`` (data set id)."""

    path: Text | None = None
    name: Text | None = None
    hub: Text | None = None
    split: Text | None = None
    config: Text | None = None
    label: Annotated[str, Field(pattern=_NAME)] | None = Field(default=None, alias="as")
    limit: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    # came later: left out where it is not used, so that older specs keep their identity
    skip: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    where: dict[str, str] | None = None
    tenths: Annotated[list[Annotated[int, Field(ge=0, le=10)]], Field(min_length=2, max_length=2)] | None = None
    normalise: bool | None = None

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


class Data(_Part):
    """The question sets of an experiment by role; ``id`` is the in-distribution set."""

    id: DataSource
    near: list[DataSource] = []
    far: list[DataSource] = []
    validation: DataSource | None = None

    def by_role(self) -> list[tuple[Role, DataSource]]:
        """``(role, source)`` in the order they are evaluated: validation first, as temperatures are fitted on it."""
        rows: list[tuple[Role, DataSource]] = []
        if self.validation is not None:
            rows.append(("validation", self.validation))
        rows.append(("in-distribution", self.id))
        rows += [("near-ood", source) for source in self.near]
        return rows + [("far-ood", source) for source in self.far]


class FineTuning(_Part):
    """How an adapter or MAP routers are trained; the defaults are the library's.

    ``data`` and ``validation`` are question sets of their own: training never sees the experiment's questions.
    """

    data: DataSource
    validation: DataSource
    epochs: Annotated[int, Field(ge=1, le=1000)] = 3
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    micro_batch: Annotated[int, Field(ge=1, le=4096)] = 16
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    patience: Annotated[int, Field(ge=1, le=10_000)] = 3
    evaluate_every: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    loss: Literal["answer", "choice"] = "answer"
    data_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Training(FineTuning):
    """How Bayesian routers are trained before they are evaluated; the defaults are the library's."""

    beta: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    kl_warmup: Annotated[float, Field(ge=0, le=1)] = 0.0
    objective: Literal["expected", "averaged"] = "expected"
    draws: Annotated[int, Field(ge=1, le=1000)] = 1
    progressive: bool = False
    tune_noise: bool = False
    sampling_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Routers(_Part):
    """Where router weights come from: ``shipped``, ``shipped:<set>``, a folder, or training them first."""

    source: Text | None = None
    train: Training | None = None

    @model_validator(mode="after")
    def _one(self) -> Routers:
        if (self.source is None) == (self.train is None):
            raise ValueError("give `shipped`, a folder, or {train: {data: …}}")
        return self


class MapRouters(_Part):
    """Native routers fine-tuned with plain cross-entropy: ``shipped``, ``shipped:<set>``, a folder, or {train: …}."""

    source: Text | None = None
    train: FineTuning | None = None
    layers: Layers = "all"

    @model_validator(mode="after")
    def _one(self) -> MapRouters:
        if (self.source is None) == (self.train is None):
            raise ValueError("give `shipped`, a folder, or {train: {data: …}}")
        return self


class Adapter(_Part):
    """A LoRA adapter on the attention projections: ``shipped``, ``shipped:<set>``, a folder, or training it first."""

    source: Text | None = None
    train: FineTuning | None = None
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[int, Field(ge=1, le=4096)] = 16

    @model_validator(mode="after")
    def _one(self) -> Adapter:
        if (self.source is None) == (self.train is None):
            raise ValueError("give `shipped`, a folder, or {train: {data: …}}")
        return self


class Noise(_Part):
    """The susceptibility stage: noise levels γ, how noise spreads, and on how many ID questions."""

    gammas: Annotated[list[Annotated[float, Field(ge=0, le=10)]], Field(min_length=1, max_length=32)] = [
        0.001,
        0.01,
        0.02,
        0.05,
        0.1,
    ]
    modes: Annotated[
        list[Literal["router", "propagated", "redrawn"]], Field(min_length=1), BeforeValidator(_distinct)
    ] = ["router"]
    limit: Annotated[int, Field(ge=1, le=1_000_000)] = 64


class Leverage(_Part):
    """The leverage stage: independent random routings per layer, on how many ID questions."""

    draws: Annotated[int, Field(ge=3, le=1000)] = 3
    limit: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    zero_block: bool = True


class Spec(_Part):
    """One experiment. Every field is documented in ``docs/cli.md``; the folder it was read from is not part of it."""

    name: Annotated[str, Field(pattern=_NAME)] = "experiment"
    model: Text
    methods: Annotated[list[MethodName], Field(min_length=1, max_length=32), BeforeValidator(_distinct)] = [
        "deterministic"
    ]
    options: dict[str, dict[str, int | float | bool | str]] = {}
    layers: Layers = None
    estimators: Annotated[list[Estimator], Field(min_length=1), BeforeValidator(_distinct)] = ["in-router"]
    samples: Annotated[int, Field(ge=1, le=1000)] = 35
    predictive_samples: Annotated[int, Field(ge=2, le=1000)] | None = None
    predictive_positions: Literal["all", "scored"] = "all"
    controls: Annotated[list[Control], BeforeValidator(_distinct)] = ["untrained", "non-routing-noise"]
    adapter: Annotated[Adapter, BeforeValidator(_routers)] | None = None
    map_routers: Annotated[MapRouters, BeforeValidator(_routers)] | None = None
    base: Literal["pretrained", "map"] = "pretrained"
    routers: Annotated[Routers, BeforeValidator(_routers)] = Routers(source="shipped")
    data: Data
    scoring: Literal["likelihood", "letter"] = "likelihood"
    normalise: bool = True
    stages: Annotated[
        list[Literal[*LISTED]],  # type: ignore[valid-type]
        Field(min_length=1),
        BeforeValidator(_distinct),
    ] = list(DEFAULT)
    noise: Noise = Noise()
    leverage: Leverage = Leverage()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    # came later: left out where it is not used, so that older specs keep their identity
    truncate: Literal["left"] | None = Field(default=None, exclude_if=lambda value: value is None)
    store_text: bool = False
    batch_tokens: Annotated[int, Field(ge=64, le=4_194_304)] = 2048
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Spec:
        if "ood" in self.stages and "evaluate" not in self.stages:
            raise ValueError("stage ood ranks answers, so add evaluate to `stages`")
        if self.base == "map" and self.map_routers is None:
            raise ValueError("base map needs `map_routers`: shipped, a folder, or {train: {data: …}}")
        unknown = set(self.options) - set(self.methods)
        if unknown:
            raise ValueError(f"options are given for {sorted(unknown)[0]!r}, which is not among `methods`")
        return self

    @property
    def trains(self) -> bool:
        """Whether anything is trained before it is evaluated."""
        return any(
            part is not None and part.train is not None for part in (self.adapter, self.map_routers, self.routers)
        )

    @property
    def answer_samples(self) -> int:
        """Routing samples of the predictive estimator: each costs a pass, so 8 unless the spec says otherwise."""
        return self.predictive_samples if self.predictive_samples is not None else max(2, min(self.samples, 8))

    def canonical(self) -> dict[str, Any]:
        """Everything the spec says, defaults written out, as plain JSON values.

        Fields that came later are left out at their default, so that older specs keep their identity.
        """
        values = self.model_dump(mode="json", by_alias=True)
        if values["predictive_positions"] == "all":
            del values["predictive_positions"]
        return values

    @property
    def experiment(self) -> str:
        """The identity: 16 hex digits of the SHA-256 over the canonical JSON."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_spec(values: dict[str, Any]) -> Spec:
    """The spec these values describe; the first thing wrong becomes one sentence with its full key path."""
    try:
        return Spec.model_validate(values)
    except ValidationError as error:
        raise SpecError(explain(error, Spec, values)) from None


def load_spec(path: str | Path, settings: Settings | None = None) -> Spec:
    """The spec in a YAML file; every problem is one sentence that starts with the file's name."""
    settings = settings or load_settings()
    file = Path(path)
    try:
        return parse_spec(yamlfile.read_file(file, settings.max_spec_bytes))
    except SpecError as error:
        raise SpecError(f"{file.name}: {error}") from None


def places(spec_file: str | Path | None = None) -> list[str]:
    """Folders against which a spec's relative paths are resolved: its own file's first, then the working directory."""
    here = [str(Path.cwd())]
    return here if spec_file is None else [str(Path(spec_file).absolute().parent), *here]


def resolve_path(text: str, folders: Sequence[str]) -> Path:
    """The first existing place a spec's path may mean; the last candidate when none exists."""
    path = Path(text).expanduser()
    if path.is_absolute() or not folders:
        return path
    candidates = [Path(folder) / path for folder in folders]
    # os.path: what can be no file name (too long, NUL) does not exist, while Path raises
    return next((candidate for candidate in candidates if os.path.exists(candidate)), candidates[-1])
