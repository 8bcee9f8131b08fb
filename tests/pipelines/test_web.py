"""The door of the dashboard: models from a list, data from registered folders, nothing typed in reaches a path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.prompt_files import Prompt, prompts_of, read_upload
from pipelines.data.questions import load_all
from pipelines.errors import DataError, SpecError
from pipelines.jobs import allowed as web
from pipelines.settings import Settings
from pipelines.spec.model import Spec, parse_spec, resolve_path
from pipelines.spec.shipped import BUNDLED_MODELS
from vmoer.models.catalog import available_models


def make(data: dict[str, object], **changes: object) -> Spec:
    return parse_spec({"model": "worldfacts-moe", "stages": ["trace"], "controls": [], "data": {"id": data}, **changes})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "sets").mkdir()
    table = pa.table({"id": ["a"], "question": ["b?"], "choices": [["c", "d"]], "answer": [0]})
    pq.write_table(table, tmp_path / "sets" / "mine.parquet")
    pq.write_table(table, tmp_path / "secret.parquet")
    return Settings(home=tmp_path / "home", models="org/model, /models/own", datasets=str(tmp_path / "sets"))


def test_bundled_models_are_those_the_library_knows() -> None:
    assert list(BUNDLED_MODELS) == [info.name for info in available_models()]


def test_lists_are_the_bundled_ones_and_what_settings_add(settings: Settings) -> None:
    assert web.allowed_models(settings) == [*BUNDLED_MODELS, "org/model", "/models/own"]
    sets = web.question_sets(settings)
    assert {"worldfacts · test", "sets · mine"} <= set(sets)
    assert not any(source.path and Path(source.path).is_absolute() for source in sets.values())
    for source in sets.values():
        web.check(make(source.model_dump(exclude_none=True, by_alias=True)), settings)


@pytest.mark.parametrize(
    ("data", "changes", "sentence"),
    [
        ({"path": "../secret.parquet"}, {}, "VMOER_DATASETS"),
        ({"path": "sets/../secret.parquet"}, {}, "VMOER_DATASETS"),
        ({"path": "sets"}, {}, "VMOER_DATASETS"),
        ({"path": "/etc/passwd"}, {}, "VMOER_DATASETS"),
        ({"path": "uploads/../jobs.sqlite"}, {}, "VMOER_DATASETS"),
        ({"path": "sets/link.parquet"}, {}, "VMOER_DATASETS"),
        ({"hub": "org/set"}, {}, "command line only"),
        ({"name": "worldfacts", "split": "test"}, {"model": "../model"}, "may not be used from here"),
        ({"name": "worldfacts", "split": "test"}, {"routers": "../routers"}, "shipped or untrained"),
        ({"name": "worldfacts", "split": "test"}, {"routers": "shipped:../../home"}, "shipped or untrained"),
        ({"name": "worldfacts", "split": "test"}, {"adapter": "/etc"}, "adapter: .*shipped or untrained"),
        ({"name": "worldfacts", "split": "test"}, {"map_routers": "../map"}, "map_routers: .*shipped or untrained"),
        (
            {"name": "worldfacts", "split": "test"},
            {
                "adapter": {
                    "train": {"data": {"path": "/etc/passwd"}, "validation": {"name": "worldfacts", "split": "train"}}
                }
            },
            "VMOER_DATASETS",
        ),
        (
            {"name": "worldfacts", "split": "test"},
            {"routers": {"train": {"data": {"hub": "org/x"}, "validation": {"name": "worldfacts", "split": "test"}}}},
            "command line only",
        ),
    ],
)
def test_what_reaches_further_is_refused(
    settings: Settings, tmp_path: Path, data: dict[str, object], changes: dict[str, object], sentence: str
) -> None:
    (tmp_path / "sets" / "link.parquet").symlink_to(tmp_path / "secret.parquet")
    with pytest.raises(SpecError, match=sentence):
        web.check(make(data, **changes), settings)
    with pytest.raises(SpecError, match=sentence):
        web.submit(make(data, **changes), settings)
    assert not settings.home.exists(), "nothing was queued"


def test_kept_prompts_are_a_set_without_answers(settings: Settings) -> None:
    kept = [Prompt("a", "first\nprompt"), Prompt("b", "مرحبا")]
    source = web.keep_prompts(kept, settings)
    again = web.keep_prompts(kept, settings)
    assert source == again
    assert web.keep_prompts(kept[:1], settings) != source
    spec = make(source.model_dump(exclude_none=True, by_alias=True))
    web.check(spec, settings)
    assert resolve_path(str(source.path), web.folders(settings)).is_file()
    (found,) = load_all(spec, web.folders(settings), settings)
    assert [(item.id, item.question, item.answered) for item in found.questions] == [
        ("a", "first\nprompt", False),
        ("b", "مرحبا", False),
    ]


def test_kept_questions_keep_their_options_and_answers(settings: Settings) -> None:
    content = "id;question;A;B;answer\nx;Where is Lyon?;Peru;France;B\n"
    items = read_upload(content.encode(), settings).accepted()
    source = web.keep_prompts(items, settings)
    spec = parse_spec({"model": "m", "data": {"id": source.model_dump(exclude_none=True, by_alias=True)}})
    (kept,) = load_all(spec, web.folders(settings), settings)[0].questions
    assert (kept.id, kept.question, kept.choices, kept.answer) == ("x", "Where is Lyon?", ("Peru", "France"), 1)
    assert [prompt.text for prompt in prompts_of(items)] == ["Question: Where is Lyon?\nAnswer:"]


def test_registered_folders_offer_every_kind_of_file(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("a.csv", "b.jsonl.gz", "notes.md"):
        (folder / name).write_text("question,A,B,answer\nQ,u,v,A\n")
    offered = web.question_sets(replace(settings, datasets=str(folder)))
    assert [shown for shown in offered if shown.startswith("own")] == ["own · a.csv", "own · b.jsonl.gz"]


@pytest.mark.parametrize(
    ("changes", "asks"),
    [
        ({"stages": ["trace", "evaluate"]}, "evaluate"),
        ({"stages": ["leverage"]}, "leverage"),
        ({"methods": ["mfvr"], "controls": ["non-routing-noise"]}, "controls"),
    ],
)
def test_prompts_without_answers_are_refused_where_answers_are_asked(
    settings: Settings, changes: dict[str, object], asks: str
) -> None:
    source = web.keep_prompts([Prompt("a", "first")], settings)
    spec = make(source.model_dump(exclude_none=True, by_alias=True), **changes)
    with pytest.raises(DataError, match=f"without answers, and .*{asks}.* needs answers"):
        load_all(spec, web.folders(settings), settings)
