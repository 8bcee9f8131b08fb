"""Every place where a path, a name or an id comes in: all are listed here, and :mod:`test_hostile_names` tries them.

A new option, spec key, link parameter, setting or store function that takes text fails a test until it is listed with
what it is. Kinds: ``id`` must match a pattern and never becomes another path; ``name`` is looked up among known ones;
``path`` is the user's own (the command line and the environment are trusted); ``number-or-word`` is parsed; ``text``
is only ever shown or tokenised.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.shared.settings import Settings as AppSettings
from pipelines.cli.app import command_tree
from pipelines.jobs import client as jobs
from pipelines.jobs import inspections as live
from pipelines.settings import FIELDS, Settings
from pipelines.spec import model as spec
from pipelines.spec import sections
from store import catalog, compact, export, layout, publish, reader, shards, verify

#: every argument and option of the command line that takes text
COMMANDS: dict[tuple[str, str], str] = {
    ("archive", "name"): "text",
    ("archive", "output"): "path",
    ("bench", "name"): "name",
    ("datasets", "path"): "path",
    ("demo", "address"): "name",
    ("doctor", "model"): "path",
    ("export", "run_id"): "id",
    ("export", "table"): "name",
    ("export", "output"): "path",
    ("export", "format_"): "name",
    ("import", "file"): "path",
    ("inspect", "algorithm"): "name",
    ("inspect", "layers"): "number-or-word",
    ("inspect", "method"): "name",
    ("inspect", "quantity"): "name",
    ("inspect", "show"): "name",
    ("inspect", "text"): "text",
    ("inspect", "model"): "path",
    ("inspect", "routers"): "path",
    ("inspect", "device"): "name",
    ("jobs cancel", "job_id"): "id",
    ("jobs logs", "job_id"): "id",
    ("jobs resume", "job_id"): "id",
    ("jobs resume", "device"): "name",
    ("models get", "name"): "name",
    ("noise-floor", "device"): "name",
    ("noise-floor", "model"): "path",
    ("noise-floor", "prompts"): "path",
    ("reproduce", "data"): "path",
    ("reproduce", "device"): "name",
    ("reproduce", "form"): "name",
    ("reproduce", "model"): "path",
    ("reproduce", "only"): "name",
    ("reproduce", "output"): "path",
    ("reproduce", "sets"): "name",
    ("reproduce", "suite"): "name",
    ("run", "engine"): "name",
    ("run", "spec_file"): "path",
    ("run", "device"): "name",
    ("runs rm", "run_ids"): "id",
    ("serve", "address"): "name",
    ("serve", "device"): "name",
    ("train", "spec_file"): "path",
    ("train", "output"): "path",
    ("train", "dtype"): "name",
    ("train", "device"): "name",
    ("worker", "device"): "name",
    ("worker", "engine"): "name",
}

#: every key of a spec, and of a request of the dashboard, that takes text
KEYS: dict[str, str] = {
    "Adapter.source": "path",
    "DataSource.path": "path",
    "DataSource.name": "name",
    "DataSource.hub": "name",
    "DataSource.split": "name",
    "DataSource.config": "name",
    "DataSource.as": "id",
    "DataSource.where": "text",
    "MapRouters.layers": "number-or-word",
    "MapRouters.source": "path",
    "Request.model": "name",
    "Request.prompts": "text",
    "Request.methods": "name",
    "Request.layers": "number-or-word",
    "Routers.source": "path",
    "Spec.name": "id",
    "Spec.model": "path",
    "Spec.methods": "name",
    "Spec.options": "number-or-word",
    "Spec.layers": "number-or-word",
    "Why.method": "name",
}

#: every setting that takes text or a path
SETTINGS: dict[str, str] = {
    "home": "path",
    "cache": "path",
    "jobs_url": "path",
    "machine": "text",
    "device": "name",
    "engine": "name",
    "ray_address": "text",
    "shards_url": "url",
    "address": "name",
    "base_path": "text",
    "hosts": "name",
    "auth_file": "path",
    "users": "name",
    "models": "path",
    "datasets": "path",
}

#: every public function of the store and of the clients that takes a run, a shard, a table, a job or an inspection
IDS: dict[str, str] = {
    "catalog.delete_run": "run_id",
    "catalog.delete_shards": "run_id",
    "catalog.find_manifest": "run_id",
    "catalog.parse_manifest": "run_id",
    "catalog.read_manifest": "run_id",
    "catalog.seal": "run_id",
    "catalog.sweep": "run_id",
    "catalog.remove_duplicate_shards": "run_id",
    "compact.compact": "run_id",
    "export.export_table": "run_id, table",
    "export.make_card": "table",
    "client.cancel": "job_id",
    "client.get_job": "job_id",
    "client.job_spec": "job_id",
    "client.log_path": "job_id",
    "client.read_log": "job_id",
    "client.resume": "job_id",
    "client.wait": "job_id",
    "layout.check_run_id": "run_id",
    "layout.manifest_path": "run_id",
    "layout.shard_folder": "run_id, table",
    "layout.shard_path": "run_id, shard, table",
    "inspections.cancel": "inspection_id",
    "inspections.get_inspection": "inspection_id",
    "inspections.read_request": "inspection_id",
    "inspections.read_result": "inspection_id",
    "inspections.write_result": "inspection_id",
    "shards.check_info": "run_id, table",
    "shards.entry": "run_id, table",
    "shards.list_shards": "run_id, table",
    "shards.merged_shards": "run_id, table",
    "shards.write_shard": "run_id, table",
    "verify.verify": "run_id",
}


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield " ".join(path), command
    for name, child in children.items():
        yield from leaves(child, (*path, name))


def test_every_argument_and_option_that_takes_text_is_listed() -> None:
    found = {
        (name, parameter.name)
        for name, command in leaves(command_tree())
        for parameter in command.params
        if parameter.name != "help" and takes_text(parameter.type_descriptor.annotation)
    }
    assert found == set(COMMANDS)


def takes_text(annotation: Any) -> bool:
    if annotation in (str, Path, Any):
        return True
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return any(takes_text(inner) for inner in typing.get_args(annotation))


def models(module: Any) -> Iterator[type[BaseModel]]:
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, BaseModel) and value.__module__ == module.__name__:
            yield value


def test_every_key_that_takes_text_is_listed() -> None:
    found = {
        f"{model.__name__}.{field.alias or name}"
        for module in (spec, sections, live)
        for model in models(module)
        for name, field in model.model_fields.items()
        if takes_text(field.annotation)
    }
    assert found == set(KEYS)


def test_every_setting_that_takes_text_is_listed() -> None:
    fields = {
        name
        for kind, names in ((Settings, FIELDS), (AppSettings, AppSettings.model_fields))
        for name in names
        if isinstance(getattr(kind(), name), str | Path)
    }
    assert fields == set(SETTINGS)


def test_every_function_that_takes_an_id_is_listed() -> None:
    wanted = {"run_id", "shard", "table", "job_id", "inspection_id"}
    found = {}
    for module in (catalog, compact, export, jobs, layout, live, publish, reader, shards, verify):
        short = module.__name__.rpartition(".")[2]
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
                names = [p.name for p in inspect.signature(function).parameters.values() if p.name in wanted]
                if names and name != "check_table":
                    found[f"{short}.{name}"] = ", ".join(
                        sorted(names, key=["run_id", "job_id", "inspection_id", "shard", "table"].index)
                    )
    assert found == IDS


def test_there_is_one_path_check() -> None:
    from tests.contract.source import calls, name, python_files

    wanted = {"os.path.commonpath", "os.path.realpath", "is_relative_to"}
    found = {
        name(path)
        for path in python_files("vmoer", "store", "pipelines", "app")
        for _, called in calls(path)
        if called in wanted or called.endswith(".is_relative_to")
    }
    assert found == {"store/layout.py"}
