"""What the dashboard may ask for: models from a list, data sets from registered folders, nothing from a path typed in.

The command line trusts its user; a page in a browser may be open to others. Every request of the dashboard goes through
this door, which knows three places for data: the built-in sets, the folders of ``VMOER_DATASETS``, and files of prompts
that were uploaded into the data folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data import worldfacts
from pipelines.data.files import DATA_SUFFIXES, stem_and_suffix
from pipelines.data.prompt_files import Prompt
from pipelines.data.reading import Item
from pipelines.errors import SpecError
from pipelines.jobs import client as jobs
from pipelines.settings import Settings
from pipelines.spec.model import Spec, resolve_path
from pipelines.spec.sections import DataSource
from pipelines.spec.shipped import BUNDLED_MODELS, is_shipped
from store.errors import InvalidNameError
from store.files import replacing
from store.layout import contained

_UPLOADS = "uploads"


def allowed_models(settings: Settings) -> list[str]:
    """Model names, folders and hub ids that a page may use: the bundled ones and those of ``VMOER_MODELS``."""
    return list(dict.fromkeys([*BUNDLED_MODELS, *_entries(settings.models)]))


def question_sets(settings: Settings) -> dict[str, DataSource]:
    """Question sets a page may use, by what to call them: built-in splits and the files of registered folders."""
    found = {f"worldfacts · {split}": DataSource(name="worldfacts", split=split) for split in worldfacts.SPLITS}
    for folder in _folders(settings):
        for path in sorted(folder.iterdir()):
            stem, suffix = stem_and_suffix(path.name)
            if suffix in DATA_SUFFIXES and path.is_file():
                shown = stem if path.suffix == ".parquet" else path.name
                found[f"{folder.name} · {shown}"] = DataSource(path=f"{folder.name}/{path.name}")
    return found


def folders(settings: Settings) -> list[str]:
    """Where the relative paths of a page's spec are looked for; relative, so that no manifest holds ours."""
    return [str(settings.home.absolute()), *(str(folder.parent) for folder in _folders(settings))]


def keep_prompts(items: Sequence[Item | Prompt], settings: Settings) -> DataSource:
    """Store prompts or questions in the data folder, once per content, as a question set."""
    rows = [_row(item) for item in items]
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]
    name = f"prompts-{digest}.parquet"
    path = settings.home / _UPLOADS / name
    if not path.exists():
        with replacing(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")
    return DataSource.model_validate({"path": f"{_UPLOADS}/{name}", "as": f"prompts-{digest[:8]}"})


def _row(item: Item | Prompt) -> dict[str, Any]:
    if isinstance(item, Prompt):
        return {"id": item.id, "prompt": item.text}
    if not item.choices:
        return {"id": item.id, "prompt": item.question}
    return {"id": item.id, "question": item.question, "choices": list(item.choices), "answer": item.answer}


def submit(spec: Spec, settings: Settings) -> str:
    """Queue an experiment asked for by a page and return its job id; refused when it reaches beyond what pages may."""
    check(spec, settings)
    return jobs.submit(spec, folders=folders(settings), settings=settings)


def check(spec: Spec, settings: Settings) -> None:
    """Raise :class:`SpecError` with one sentence unless a page may ask for this experiment."""
    models = allowed_models(settings)
    if spec.model not in models:
        raise SpecError(f"model: {spec.model[:80]!r} may not be used from here; there are {', '.join(models)}")
    parts = {"routers": spec.routers, "adapter": spec.adapter, "map_routers": spec.map_routers}
    sources = [source for _, source in spec.data.by_role()]
    for key, part in parts.items():
        if part is None:
            continue
        if part.source is not None and part.source != "untrained" and not is_shipped(part.source):
            raise SpecError(f"{key}: a page may use what is shipped or untrained, or train it")
        if part.train is not None:
            sources += [part.train.data, part.train.validation]
    for source in sources:
        _check_source(source, settings)


def _check_source(source: DataSource, settings: Settings) -> None:
    if source.hub is not None:
        raise SpecError("data: hub sets can be used from the command line only")
    if source.path is None:
        return
    target = resolve_path(source.path, folders(settings))
    for folder in [*_folders(settings), settings.home / _UPLOADS]:
        with suppress(InvalidNameError):
            if contained(folder, target).resolve() != folder.resolve():
                return
    raise SpecError(f"data: {Path(source.path).name[:80]!r} is not in a folder that VMOER_DATASETS names")


def _folders(settings: Settings) -> list[Path]:
    return [path for entry in _entries(settings.datasets) if (path := Path(entry).expanduser().absolute()).is_dir()]


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]
