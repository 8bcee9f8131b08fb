"""A suite file: question sets by name, and per form the experiments that are run on each of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.data.questions import load_questions
from pipelines.errors import SpecError
from pipelines.resources import SPECS
from pipelines.settings import Settings
from pipelines.spec import yamlfile
from pipelines.spec.explain import explain
from pipelines.spec.model import Spec, parse_spec, resolve_path
from pipelines.spec.runs import expand
from pipelines.spec.sections import DataSource
from pipelines.spec.shipped import shipped_folder
from vmoer.routers.base import routers

#: the sets that every experiment besides ``main`` runs with unless it says otherwise: one method, no controls
_LEAN: dict[str, Any] = {
    "methods": ["fcvr"],
    "estimators": ["in-router", "predictive"],
    "controls": [],
    "stages": ["evaluate"],
    "bootstrap": 1000,
}
#: a training seed is the Bayesian routers': what they stand on stays the same
_SEED_OF = {"adapter": ("data_seed",), "map_routers": ("data_seed",), "routers": ("data_seed", "sampling_seed")}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class QuestionSets(_Part):
    """One in-distribution set with what is tuned on, trained on, and told apart from it."""

    id: DataSource
    validation: DataSource
    train: DataSource
    near: list[DataSource]
    far: list[DataSource]


class Form(_Part):
    """How much is computed: questions per role (``train``, or by the part that is trained), keys of every spec, how
    parts are trained, the experiments.
    """

    limits: dict[str, Annotated[int, Field(ge=1)]]
    common: dict[str, Any]
    training: dict[str, dict[str, Any]] = {}
    experiments: dict[str, dict[str, Any]]


class Suite(_Part):
    """A suite file."""

    suite: str
    sets: dict[str, QuestionSets]
    forms: dict[str, Form]


@dataclass(frozen=True)
class Planned:
    """One spec of a suite: ``experiment`` on ``questions``."""

    experiment: str
    questions: str
    spec: Spec


def load_suite(name: str, settings: Settings) -> Suite:
    """The suite of that name among the project's specs."""
    known = sorted(path.stem for path in SPECS.glob("*.yaml") if path.read_text(encoding="utf-8").find("\nsuite:") >= 0)
    if name not in known:
        raise SpecError(f"no suite {name!r}; there are {', '.join(known)}")
    values = yamlfile.read_file(SPECS / f"{name}.yaml", settings.max_spec_bytes)
    try:
        return Suite.model_validate(values)
    except ValidationError as error:
        raise SpecError(f"{name}.yaml: {explain(error, Suite, values)}") from None


def present_sets(suite: Suite, wanted: list[str] | None, data: Path | None) -> tuple[list[str], list[str]]:
    """``(sets whose files are there, sentences about the others)``; an unknown name is refused."""
    for name in wanted or []:
        if name not in suite.sets:
            raise SpecError(f"no question set {name!r} in suite {suite.suite}; there are {', '.join(suite.sets)}")
    folders = [str(data)] if data is not None else []
    found, absent = [], []
    for name in wanted or list(suite.sets):
        sets = suite.sets[name]
        sources = [sets.id, sets.validation, *sets.near, *sets.far]
        missing = [
            source.path for source in sources if source.path and not resolve_path(source.path, folders).is_file()
        ]
        if missing:
            absent.append(f"{name} is left out: no {missing[0]} in {data if data is not None else 'a folder (--data)'}")
        else:
            found.append(name)
    return found, absent


def plan(
    suite: Suite,
    form_name: str,
    model: str,
    sets: list[str],
    questions: int | None = None,
    moe_layers: int | None = None,
    only: Sequence[str] = (),
) -> tuple[list[Planned], list[str]]:
    """Every spec of the form, the main experiments first, and sentences about methods that are left out.

    ``questions`` lowers the number of questions per set; on a model of few ``moe_layers`` a choice of n layers takes
    half of them at most. ``only`` names the experiments to run. The name of a spec says which form it belongs to.
    """
    if form_name not in suite.forms:
        raise SpecError(f"no form {form_name!r} in suite {suite.suite}; there are {', '.join(suite.forms)}")
    form = suite.forms[form_name]
    unknown = [experiment for experiment in only if experiment not in form.experiments]
    if unknown:
        raise SpecError(f"no experiment {unknown[0]!r} in this form; there are {', '.join(form.experiments)}")
    planned, said = [], []
    for experiment, given in form.experiments.items():
        if only and experiment not in only:
            continue
        for name in given.get("sets", sets):
            if name not in sets:
                continue
            values = {**form.common, **(_LEAN if experiment != "main" else {}), **given}
            seed = values.pop("training_seed", 0)
            values.pop("sets", None)
            if "layers" in values:
                values["layers"] = _fitting(values["layers"], moe_layers)
            limits = {**form.limits, **values.pop("limits", {})}
            seen = values.pop("skip", None)
            values["methods"], gone = _available(values["methods"], model, form)
            said += [sentence for sentence in gone if sentence not in said]
            trained = _training(form.training, values.pop("training", {}), suite.sets[name], limits, seed)
            values |= {part: {**values.get(part, {}), **made} for part, made in trained.items()}
            values["name"] = f"{suite.suite}-{form_name}.{experiment}.{name}"
            values["model"] = model
            values["data"] = _data(suite.sets[name], limits, questions, "ood" in values["stages"])
            if seen is not None:  # in-distribution questions that another experiment was chosen on
                values["data"]["id"]["skip"] = seen
            planned.append(Planned(experiment, name, parse_spec(values)))
    return planned, said


def _available(methods: list[str], model: str, form: Form) -> tuple[list[str], list[str]]:
    """The methods this installation knows and, with shipped weights, has routers for on this model."""
    kept, said = [], []
    for method in methods:
        if method not in routers.names():
            said.append(f"method {method} is left out: this version does not have it")
        elif (
            not form.training
            and routers.get(method).trainable
            and method != "deterministic"
            and shipped_folder(model, method) is None
        ):
            said.append(f"method {method} is left out: no routers are shipped for it on {model}")
        else:
            kept.append(method)
    return kept or ["deterministic"], said


def _fitting(layers: Any, moe_layers: int | None) -> Any:
    """``rule:n`` with n at most half of the model's MoE layers."""
    match = re.fullmatch(r"([a-z]+):(\d+)(.*)", str(layers))
    if match is None or moe_layers is None:
        return layers
    return f"{match[1]}:{min(int(match[2]), max(moe_layers // 2, 1))}{match[3]}"


def _training(
    common: dict[str, dict[str, Any]],
    own: dict[str, dict[str, Any]],
    sets: QuestionSets,
    limits: dict[str, int],
    seed: int,
) -> dict[str, Any]:
    """The parts that are trained: their data, their settings (the experiment's own last), and their seeds."""
    made: dict[str, Any] = {}
    for part, settings in common.items():
        source = {
            "data": _limited(sets.train, limits.get(part, limits.get("train"))),
            "validation": _limited(sets.validation, limits["validation"]),
        }
        seeds = dict.fromkeys(_SEED_OF[part], seed if part == "routers" else 0)
        made[part] = {"train": {**source, **settings, **own.get(part, {}), **seeds}}
    return made


def _data(sets: QuestionSets, limits: dict[str, int], questions: int | None, ood: bool) -> dict[str, Any]:
    def limit(role: str) -> int:
        return min(limits[role], questions) if questions else limits[role]

    return {
        "validation": _limited(sets.validation, limit("validation")),
        "id": _limited(sets.id, limit("id")),
        "near": [_limited(source, limit("near")) for source in sets.near] if ood else [],
        "far": [_limited(source, limit("far")) for source in sets.far] if ood else [],
    }


def _limited(source: DataSource, limit: int | None) -> dict[str, Any]:
    values = source.model_dump(by_alias=True, exclude_none=True)
    return {**values, "limit": limit} if limit is not None else values


def count_questions(planned: list[Planned], folders: list[str], settings: Settings) -> int:
    """Questions × runs of the specs: how often a question is answered, predictive passes counted singly."""
    total = 0
    for item in planned:
        sizes = [
            len(load_questions(source, role, folders, settings).questions) for role, source in item.spec.data.by_role()
        ]
        passes = sum(run.samples if run.estimator == "predictive" and not run.noisy else 1 for run in expand(item.spec))
        total += sum(sizes) * passes
    return total
