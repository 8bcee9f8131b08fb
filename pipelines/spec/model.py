"""The experiment spec: what a YAML file may say, what is refused, and the identity (hash) of what it says."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from pipelines.errors import SpecError
from pipelines.settings import Settings, load_settings
from pipelines.spec import yamlfile
from pipelines.spec.explain import explain
from pipelines.spec.sections import (
    NAME,
    Adapter,
    Data,
    Layers,
    Leverage,
    MapRouters,
    MethodName,
    Noise,
    Part,
    Routers,
    Text,
    distinct,
    source_or_training,
)
from pipelines.spec.stage_table import DEFAULT, LISTED

Estimator = Literal["in-router", "closed-form", "predictive"]
Control = Literal["untrained", "beta-zero", "own-mean", "prior-covariance", "non-routing-noise", "moe-noise"]
CONTROLS: tuple[Control, ...] = get_args(Control)


class Spec(Part):
    """One experiment. Every field is documented in ``docs/cli.md``; the folder it was read from is not part of it."""

    name: str = Field(default="experiment", pattern=NAME, description="what runs of this experiment are called")
    model: Text = Field(
        description="bundled name, folder or hub id; a relative folder is looked for beside the spec first"
    )
    methods: Annotated[list[MethodName], Field(min_length=1, max_length=32), BeforeValidator(distinct)] = Field(
        default=["deterministic"], description="one run each; the deterministic baseline is always added"
    )
    options: dict[str, dict[str, int | float | bool | str]] = Field(
        default={}, description="constructor options by method"
    )
    layers: Layers = Field(
        default=None,
        description="all, auto, last:n, susceptible:n, leverage:n, random:n:draw, a list; else those of the checkpoint",
    )
    estimators: Annotated[list[Estimator], Field(min_length=1), BeforeValidator(distinct)] = Field(
        default=["in-router"], description="in-router, closed-form, predictive; one run each"
    )
    samples: int = Field(default=35, ge=1, le=1000, description="routing samples of the in-router estimator")
    predictive_samples: Annotated[int, Field(ge=2, le=1000)] | None = Field(
        default=None, description="passes of the predictive estimator; left out: min(samples, 8)"
    )
    predictive_positions: Literal["all", "scored"] = Field(
        default="all", description="where the passes sample routing: all, or (cheaper) only those that are scored"
    )
    controls: Annotated[list[Control], BeforeValidator(distinct)] = Field(
        default=["untrained", "own-mean", "prior-covariance", "non-routing-noise"],
        description="untrained, beta-zero, own-mean (noise 0), prior-covariance (around the trained mean), "
        "non-routing-noise, moe-noise; beside every Bayesian method",
    )
    adapter: Annotated[Adapter, BeforeValidator(source_or_training)] | None = Field(
        default=None, description="shipped, shipped:<set>, a folder, or {train: …}; left out: the model as loaded"
    )
    map_routers: Annotated[MapRouters, BeforeValidator(source_or_training)] | None = Field(
        default=None, description="fine-tuned native routers: shipped, shipped:<set>, a folder, or {train: …}"
    )
    base: Literal["pretrained", "map"] = Field(
        default="pretrained", description="which routers the Bayesian ones stand on: pretrained or map"
    )
    routers: Annotated[Routers, BeforeValidator(source_or_training)] = Field(
        default=Routers(source="shipped"), description="shipped, shipped:<set>, untrained, a folder, or {train: …}"
    )
    data: Data = Field(description="question sets by role")
    scoring: Literal["likelihood", "letter"] = Field(
        default="likelihood", description="likelihood (of the option's text) or letter"
    )
    normalise: bool = Field(default=True, description="likelihood per token (true) or of the whole option")
    stages: Annotated[
        list[Literal[*LISTED]],  # type: ignore[valid-type]
        Field(min_length=1),
        BeforeValidator(distinct),
    ] = Field(default=list(DEFAULT), description=", ".join(LISTED))
    noise: Noise = Field(default=Noise(), description="the susceptibility stage")
    leverage: Leverage = Field(default=Leverage(), description="the leverage stage")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="of the weights: auto, float32, bfloat16 or float16; routing is float32 always"
    )
    # came later: left out where it is not used, so that older specs keep their identity
    truncate: Literal["left"] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="left: cut the first tokens of prompts longer than the model can read; left out: refuse them",
    )
    store_text: bool = Field(
        default=False, description="store prompts, options and token texts (hashes are stored always)"
    )
    batch_tokens: int = Field(
        default=2048,
        ge=64,
        le=4_194_304,
        description="prompt tokens of a forward pass; on a GPU up to four times as many, as its memory allows",
    )
    bootstrap: int = Field(default=1000, ge=100, le=100_000, description="resamples behind every interval")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of sampling and resampling")

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
    def revisions(self) -> list[str]:
        """What this spec means in another way than it once did, so that earlier results are not taken for its own."""
        changed = {
            "kl-by-tokens": self.routers.train is not None,
            "temperature-in-spread": not {"temperature", "vtsr"}.isdisjoint(self.methods),
            "noise-around-own-mean": not {"non-routing-noise", "moe-noise"}.isdisjoint(self.controls),
        }
        bayesian = set(self.methods) - {"deterministic"}
        return [name for name, applies in changed.items() if applies and bayesian]

    @property
    def experiment(self) -> str:
        """The identity: 16 hex digits of the SHA-256 over the canonical JSON and the revisions."""
        values = self.canonical() | ({"revisions": self.revisions} if self.revisions else {})
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
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
