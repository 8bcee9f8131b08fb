"""Hostile paths, names, ids, links and filters, tried at each of the places that :mod:`test_entry_points` lists."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.shared import url_state as urlstate
from pipelines.errors import PipelineError
from pipelines.jobs import allowed as web
from pipelines.jobs import client as jobs
from pipelines.jobs import inspections as live
from pipelines.jobs.client import log_path
from pipelines.settings import Settings
from pipelines.spec import model as spec
from store import catalog, compact, export, layout, queries, reader, shards, verify
from store.errors import NotFoundError, StoreError
from tests.adversarial.conftest import Vmoer, picture
from tests.adversarial.test_entry_points import COMMANDS
from tests.store.factory import run_id

DET = run_id("deterministic")

TRAVERSALS = [
    "..", ".", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e", "%252e%252e%252f", "/etc/passwd",
    "//etc/passwd", "a/../../b", "..\\..\\b", "C:\\x", "\\\\server\\share", "a#b", "a?b", "a\0b", "a\nb", "a b",
    "~root", "$HOME", "`id`", "-rf", "--help", "A", "ａ", ".hidden", "", "x" * 300, "a;b", "a'b", 'a"b',
    "a--", "con", "\ud800", "‮a",
]  # fmt: skip


@pytest.mark.parametrize("bad", TRAVERSALS)
def test_no_id_leads_anywhere_in_the_store(built: Path, tmp_path: Path, bad: str) -> None:
    before = picture(built.parent)
    errors = (StoreError, PipelineError)
    with reader.open_store(built) as store:
        attempts: list[Any] = [
            lambda: catalog.read_manifest(built, bad),
            lambda: catalog.seal(built, bad),
            lambda: catalog.delete_run(built, bad),
            lambda: catalog.sweep(built, bad),
            lambda: compact.compact(built, bad),
            lambda: export.export_table(store, bad, "metrics", "csv", tmp_path / "o"),
            lambda: export.export_table(store, DET, bad or "..", "csv", tmp_path / "o"),
            lambda: export.export_table(store, DET, "metrics", bad, tmp_path / "o"),
            lambda: layout.manifest_path(built, bad),
            lambda: layout.shard_folder(built, "routing", bad),
            lambda: layout.shard_folder(built, bad, DET),
            lambda: layout.shard_path(built, "routing", DET, bad),
            lambda: shards.list_shards(built, "routing", bad),
            lambda: shards.write_shard(built, "metrics", bad, "x", {}),
            lambda: shards.write_shard(built, bad, DET, "x", {}),
            lambda: verify.verify(built, bad),
            lambda: shards.merged_shards(built, "metrics", bad),
            lambda: catalog.remove_duplicate_shards(built, bad),
            lambda: catalog.parse_manifest(b"{}", bad),
        ]
        for number, attempt in enumerate(attempts):
            if number in (3, 8, 9, 12, 16, 17) and re.fullmatch(r"[a-z0-9_-]{1,120}", bad):
                continue  # an odd name, but a fine one
            with pytest.raises(errors) as caught:
                attempt()
            assert len(str(caught.value)) < 1000, number
    assert not (tmp_path / "o").exists()
    assert picture(built.parent) == before


@pytest.mark.parametrize("bad", TRAVERSALS)
def test_no_id_leads_anywhere_in_jobs_and_inspections(tmp_path: Path, bad: str) -> None:
    settings = Settings(home=tmp_path / "home")
    attempts: list[Any] = [
        lambda: jobs.get_job(bad, settings),
        lambda: jobs.cancel(bad, settings),
        lambda: jobs.resume(bad, settings=settings),
        lambda: jobs.wait(bad, timeout=0, settings=settings),
        lambda: live.get_inspection(bad, settings),
        lambda: live.cancel(bad, settings),
        lambda: live.read_request(bad, settings),
        lambda: live.read_result(bad, settings),
        lambda: live.write_result(bad, {}, [], settings),
    ]
    for attempt in attempts:
        with pytest.raises(PipelineError) as caught:
            attempt()
        assert len(str(caught.value)) < 300
    if bad not in ("-rf", "--help", "A", "ａ", "a--", "con") and len(bad) < 300:
        with pytest.raises(PipelineError):
            log_path(bad, settings)
    elif len(bad) < 300:
        assert log_path(bad, settings).parent == settings.logs
    assert not settings.home.exists() or not list(settings.home.rglob("*passwd*"))


#: the ids and names of commands that answer at once; devices are refused by one rule, so once
CLI_TRIED = [
    ("bench", "name"), ("export", "run_id"), ("export", "table"), ("export", "format_"), ("jobs cancel", "job_id"),
    ("jobs logs", "job_id"), ("jobs resume", "job_id"), ("models get", "name"), ("run", "device"), ("serve", "device"),
    ("serve", "address"), ("train", "dtype"), ("reproduce", "suite"), ("runs rm", "run_ids"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "parameter"), CLI_TRIED)
def test_hostile_arguments_are_refused_in_a_sentence(
    vmoer: Vmoer, published: Path, tmp_path: Path, command: str, parameter: str
) -> None:
    """Each argument in turn, the others sound."""
    assert COMMANDS[command, parameter] in ("id", "name")
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump({"model": "worldfacts-moe", "data": {"id": {"name": "x", "split": "y"}}})
    )
    sound = {
        "export": {"run_id": DET, "table": "metrics", "output": str(tmp_path / "o.csv"), "format_": "csv"},
        "inspect": {"text": "hello", "device": "cpu"},
        "jobs resume": {"job_id": "20260101-000000-aaaaaaaa-bbbb", "device": "cpu"},
        "run": {"spec_file": str(tmp_path / "s.yaml"), "device": "cpu"},
        "train": {
            "spec_file": str(tmp_path / "s.yaml"),
            "output": str(tmp_path / "t"),
            "dtype": "float32",
            "device": "cpu",
        },
    }.get(command, {})
    options = {"output", "format_", "device", "dtype", "address", "model", "routers"}
    before = picture(published)
    for bad in TRAVERSALS:
        if bad.startswith("-") or (parameter == "address" and bad in ("", "A", "con")):
            continue  # an option of its own; a name that the network may know
        given = {**sound, parameter: bad}
        words = [value for name, value in given.items() if name not in options]
        words += [f"--{name.rstrip('_')}={value}" for name, value in given.items() if name in options]
        done = vmoer(*command.split(), *words)
        assert done.code in (1, 2, 3), (bad, done)
        assert done.sentence.isprintable()
        assert done.err.count("\n") <= 3
    assert picture(published) == before


@pytest.mark.parametrize("bad", [*TRAVERSALS, "evil/model", "smollm2-moe/../x"])
def test_a_page_can_ask_for_no_model_and_no_data_beyond_its_lists(tmp_path: Path, bad: str) -> None:
    outside = tmp_path / "outside.parquet"
    outside.write_bytes(b"PAR1")
    allowed = tmp_path / "sets"
    allowed.mkdir()
    (allowed / "link.parquet").symlink_to(outside)
    settings = Settings(home=tmp_path / "home", datasets=str(allowed))
    for model, path in ((bad, None), ("worldfacts-moe", bad)):
        data = {"name": "worldfacts", "split": "test"} if path is None else {"path": path}
        with pytest.raises(PipelineError):
            web.submit(spec.parse_spec({"model": model, "data": {"id": data}}), settings)
    for path in ("sets/link.parquet", "sets/../outside.parquet", str(outside), "sets", f"{allowed}/../outside.parquet"):
        with pytest.raises(PipelineError, match="VMOER_DATASETS"):
            web.submit(spec.parse_spec({"model": "worldfacts-moe", "data": {"id": {"path": path}}}), settings)
    with pytest.raises(PipelineError):
        live.parse_request({"model": bad, "prompts": ["x"]}, settings)
    assert not settings.home.exists()


@pytest.mark.parametrize("name", sorted(urlstate.PARAMETERS))
def test_a_link_parameter_is_a_known_value_or_refused(name: str) -> None:
    for bad in TRAVERSALS:
        try:
            value = urlstate.parse({name: [bad]})[name]
            chosen = urlstate.choose(name, value[0] if isinstance(value, tuple) else value, ["known"], None)
        except urlstate.LinkError as error:
            chosen = "known" if str(error).isprintable() else str(error)
        assert chosen == "known", bad


SQL = [
    "' OR 1=1 --",
    '" OR 1=1 --',
    "x'; DROP TABLE runs; --",
    "runs; ATTACH '/etc/passwd'",
    "1); COPY runs TO '/tmp/x'",
    "%",
    "_",
]


@pytest.mark.parametrize("bad", SQL)
def test_no_filter_of_any_query_is_read_as_sql(built: Path, bad: str) -> None:
    """Every text argument of every query, the others left alone or sound."""
    tried = 0
    with reader.open_store(built) as store:
        everything = len(queries.runs(store))
        for name in queries.__all__:
            function = getattr(queries, name)
            parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "store"]
            texts = [p for p in parameters if "str" in str(p.annotation) or "RunIds" in str(p.annotation)]
            for one in texts:
                needed = [p for p in parameters if p.default is p.empty]
                given: dict[str, Any] = {p.name: DET if p in texts else 0 for p in needed}
                given |= {p.name: [0] for p in needed if "Sequence[int]" in str(p.annotation)}
                try:
                    found = function(store, **{**given, one.name: bad})
                except (KeyError, NotFoundError):  # a choice among expressions of the module, or tables of the schema
                    found = None
                assert found is None or len(found) == 0, f"{name}({one.name})"
                tried += 1
        assert len(queries.runs(store)) == everything
    assert tried > 20


def test_a_link_out_of_the_data_folder_is_refused_by_the_one_function(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "logs").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (home / "logs" / "a.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="leads out of the data folder"):
        log_path("a", Settings(home=home))
    with pytest.raises(StoreError, match="leads out"):
        layout.contained(home, tmp_path / "home2")  # a longer name with the same beginning is another folder
