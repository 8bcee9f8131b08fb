"""Manifests: written whole or not at all, refused when newer or damaged; no name leads out of the data folder."""

import json
from dataclasses import replace

import pytest

from store import catalog, layout, schema, signatures, typed
from store.catalog import delete_run, list_manifests, read_manifest, seal, write_manifest
from store.compact import compact
from store.errors import CorruptStoreError, InvalidDataError, InvalidNameError, NewerSchemaError, NotFoundError
from store.export import export_table
from store.shards import list_shards, write_shard
from store.verify import verify
from tests.store.conftest import FCVR

OUTSIDE = [
    "..",
    ".",
    "",
    "../evil",
    "a/../../evil",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "%2e%2e",
    "a%2fb",
    "a#b",
    "a?b",
    "a\x00b",
    "a\nb",
    "RUN",
    "ü",
    ".hidden",
    "x" * 121,
    "run\n",
]


@pytest.mark.parametrize("bad", OUTSIDE)
def test_no_entry_point_takes_a_run_id_that_is_not_one(home, store, tmp_path, bad):
    manifest = read_manifest(home, FCVR)
    before = sorted(path for path in tmp_path.rglob("*"))
    entries = [
        lambda: write_shard(home, "ood_scores", bad, "k", {}),
        lambda: list_shards(home, "ood_scores", bad),
        lambda: layout.shard_folder(home, "ood_scores", bad),
        lambda: write_manifest(home, replace(manifest, run_id=bad)),
        lambda: read_manifest(home, bad),
        lambda: delete_run(home, bad),
        lambda: seal(home, bad),
        lambda: verify(home, bad),
        lambda: compact(home, bad),
        lambda: export_table(store, bad, "runs", "csv", tmp_path / "out.csv"),
    ]
    for entry in entries:
        with pytest.raises(InvalidNameError, match="is not a run id"):
            entry()
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("bad", ["../runs", "routing/../..", "nope", "", "runs", "layer_stats"])
def test_no_shard_of_what_is_not_a_table_of_shards(home, bad):
    with pytest.raises(NotFoundError, match="there is no table"):
        write_shard(home, bad, FCVR, "k", {})


def test_a_link_out_of_the_data_folder_is_refused(home, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    folder = layout.facts_folder(home) / "table=ood_scores"
    (folder / "run_id=linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidNameError, match="leads out of the data folder"):
        list_shards(home, "ood_scores", "linked")


def test_a_manifest_reads_back_and_gives_its_rows(home):
    manifest = read_manifest(home, FCVR)
    write_manifest(home, manifest)
    assert read_manifest(home, FCVR) == manifest
    tables = catalog.catalog_tables([manifest])
    for name, rows in tables.items():
        assert rows.column_names == list(schema.TABLES[name].column_names)
        for column in schema.TABLES[name].columns:
            assert typed._decoded(rows.column(column.name).combine_chunks()).type == typed.arrow_type(column.type)
    assert tables["runs"].to_pylist()[0]["datasets"] == ["synthetic-id", "synthetic-near", "synthetic-far"]


def test_a_time_with_an_offset_is_stored_in_utc(home):
    manifest = replace(read_manifest(home, FCVR), started_at="2026-01-01T12:00:00+02:00")
    assert manifest.run_row()["started_at"].isoformat() == "2026-01-01T10:00:00"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "done"}, "status 'done' is not one of queued"),
        ({"card": {"loss": float("nan")}}, "cannot hold NaN"),
        ({"samples": -1}, "column 'samples'"),
        ({"method": None}, "column 'method': row 0 is NULL"),
        ({"started_at": "yesterday"}, "ISO 8601"),
        ({"model": {"model": "m", "colour": "red"}}, "no column 'colour'"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_and_the_old_one_stays(home, changes, words):
    path = layout.manifest_path(home, FCVR)
    before = path.read_bytes()
    with pytest.raises(InvalidDataError, match=words):
        write_manifest(home, replace(read_manifest(home, FCVR), **changes))
    assert path.read_bytes() == before


def _edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(signatures.signed(content | changes)))


def test_keys_of_a_later_release_with_the_same_schema_are_ignored(home):
    manifest = read_manifest(home, FCVR)
    _edit(layout.manifest_path(home, FCVR), a_later_idea=1)
    assert read_manifest(home, FCVR) == manifest


def test_a_manifest_from_before_checksums_is_read_and_one_that_lost_its_own_is_not(home):
    path, manifest = layout.manifest_path(home, FCVR), read_manifest(home, FCVR)
    content = json.loads(path.read_text())
    digest = content.pop("sha256")
    path.write_text(json.dumps(content))
    assert read_manifest(home, FCVR) == manifest
    for damaged in ({**content, "sha257": digest}, {**content, "sha256": digest, "seed": content["seed"] + 1}):
        path.write_text(json.dumps(damaged))
        with pytest.raises(CorruptStoreError, match=r"no manifest has a key 'sha257'|its SHA-256 differs"):
            read_manifest(home, FCVR)


def test_a_newer_schema_is_refused_in_one_sentence(home):
    _edit(layout.manifest_path(home, FCVR), schema_version=schema.SCHEMA_VERSION + 1)
    with pytest.raises(NewerSchemaError, match="upgrade VMoER"):
        list_manifests(home)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema_version": 1}',
        '{"schema_version": "1"}',
        "\xff",
        '{"schema_version": 1, "x": NaN}',
    ],
)
def test_a_damaged_manifest_is_named_and_does_not_hide_the_others(home, content):
    layout.manifest_path(home, FCVR).write_text(content, encoding="latin-1")
    with pytest.raises(CorruptStoreError, match=f"{FCVR}.json"):
        list_manifests(home)
    damaged = []
    assert len(list_manifests(home, damaged)) == 1
    assert len(damaged) == 1


def test_a_manifest_copied_over_another_is_noticed(home):
    other = next(run for run in catalog.run_ids(home) if run != FCVR)
    layout.manifest_path(home, FCVR).write_bytes(layout.manifest_path(home, other).read_bytes())
    with pytest.raises(CorruptStoreError, match="belongs to another run"):
        read_manifest(home, FCVR)


def test_an_unknown_run_is_not_found(home):
    for entry in (read_manifest, delete_run, seal):
        with pytest.raises(NotFoundError, match="there is no run 'unknown'"):
            entry(home, "unknown")
