"""An experiment on an adapter and MAP routers: its baselines, its training logs, one base for all rows, its archive."""

from __future__ import annotations

import json
import random
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.cli.listing import run_rows
from pipelines.data.questions import load_questions
from pipelines.errors import PipelineError
from pipelines.experiment.manifests import check_same_base
from pipelines.preparation.controls import tuned_noise
from pipelines.preparation.setup import prepare_experiment
from pipelines.session.inputs import Inputs
from pipelines.session.session import Session
from pipelines.spec.model import Spec, parse_spec
from pipelines.spec.runs import expand
from store.archive import PER_QUESTION, read_archive, write_archive
from store.catalog import find_manifest, read_manifest, write_manifest
from store.errors import CorruptStoreError, InvalidDataError, NotFoundError
from store.files import sha256
from store.publish import current_number
from store.reader import open_store
from store.verify import verify
from tests.pipelines.support import settings, vmoer
from vmoer.checkpoint import signed

TRAIN = {
    "data": {"name": "worldfacts", "split": "train", "limit": 24},
    "validation": {"name": "worldfacts", "split": "validation", "limit": 8},
    "epochs": 1,
    "evaluate_every": 1,
    "batch_size": 12,
    "learning_rate": 0.01,
}
SPEC: dict[str, Any] = {
    "name": "based",
    "model": "worldfacts-moe",
    "methods": ["mfvr"],
    "layers": [1],
    "estimators": ["in-router", "predictive"],
    "controls": ["untrained", "beta-zero", "own-mean", "prior-covariance", "moe-noise"],
    "samples": 4,
    "predictive_samples": 2,
    "adapter": {"train": TRAIN, "rank": 2},
    "map_routers": {"train": {**TRAIN, "learning_rate": 0.1}},
    "routers": {"train": {**TRAIN, "objective": "averaged", "loss": "choice", "draws": 2, "tune_noise": True}},
    "data": {
        "id": {"name": "worldfacts", "split": "test", "limit": 24},
        "far": [{"name": "worldfacts", "split": "far-ood", "limit": 24}],
    },
    "noise": {"limit": 6, "gammas": [0.02]},
    "stages": ["trace", "susceptibility", "evaluate", "ood", "efficiency"],
    "bootstrap": 100,
}


def spec(**changes: Any) -> Spec:
    return parse_spec({**SPEC, **changes})


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("based")
    (folder / "spec.yaml").write_text(json.dumps(SPEC))
    done = vmoer(folder / "home", "run", str(folder / "spec.yaml"), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return folder / "home"


def test_every_baseline_has_its_row_and_its_base(computed: Path) -> None:
    cards = {}
    for run in expand(spec()):
        manifest = find_manifest(computed, run.run_id)
        assert manifest is not None
        assert manifest.status == "finished"
        cards[run.method, run.estimator, run.control] = manifest.card["base"]
    assert [key[2] for key in cards if key[0] == "deterministic"] == ["none", "unadapted", "map-routers"]
    plain = cards["deterministic", "none", "none"]
    loaded = cards["deterministic", "none", "unadapted"]
    tuned = cards["deterministic", "none", "map-routers"]
    assert plain["base"] == "pretrained"
    assert loaded["adapter_sha256"] is None
    assert plain["adapter_sha256"] == tuned["adapter_sha256"] is not None
    assert plain["routers_sha256"] == loaded["routers_sha256"]
    assert all(card == plain for key, card in cards.items() if key[0] == "mfvr")


def test_cards_name_the_weights_that_were_used(computed: Path) -> None:
    inputs = Inputs(spec(), [], settings(computed))
    for run in expand(inputs.spec):
        manifest = find_manifest(computed, run.run_id)
        assert manifest is not None
        named = manifest.card["routing"].get("checkpoint_sha256")
        if run.method == "deterministic" or run.control in ("untrained", "moe-noise"):
            assert named is None
        else:
            folder = inputs.parts.routers(run.method, run.control)
            assert folder is not None
            assert named == sha256(folder / "routers.safetensors")


def test_logs_costs_and_paired_stability_are_stored(computed: Path) -> None:
    with open_store(computed) as store:
        logs = store.query("SELECT run_id, quantity, layer, value FROM training_log")
        costs = store.query("SELECT * FROM efficiency")
        paired = store.query("SELECT * FROM comparisons WHERE metric = 'jaccard'")
        examples = store.query("SELECT * FROM stability_examples")
        scores = set(store.query("SELECT DISTINCT score FROM metrics")["score"])
    logged = {run_id: set(rows["quantity"]) for run_id, rows in logs.groupby("run_id")}
    names = {run.run_id: run for run in expand(spec())}
    assert {names[run_id].control for run_id in logged} == {"none", "map-routers", "beta-zero"}
    for run_id, quantities in logged.items():
        expected = {"validation_nll", "task_loss"}
        if not names[run_id].deterministic:
            expected |= {"kl", "beta", "posterior_std", "logit_std", "noise_scale", "noise_nll"}
        assert expected <= quantities, run_id
    zero = logs[logs["run_id"].str.contains("beta-zero") & (logs["quantity"] == "beta")]
    assert (zero["value"] == 0).all()
    assert set(costs["quantity"]) == {
        "macs_per_token",
        "parameters",
        "flops_per_token",
        "peak_bytes",
        "prefill_seconds",
        "decode_seconds",
    }
    inside = costs[costs["run_id"].str.contains("in-router")].set_index("quantity")
    assert (inside["value"] > inside["baseline"])[["macs_per_token", "parameters", "flops_per_token"]].all()
    assert inside.loc["flops_per_token", "value"] < 1.5 * inside.loc["flops_per_token", "baseline"]
    assert len(paired)
    assert examples.groupby(["run_id", "mode", "gamma"]).size().eq(6).all()
    assert "prompt_length" in scores


def test_cards_say_whether_a_posterior_has_left_its_prior(computed: Path) -> None:
    listed = {one["run_id"]: one for one in run_rows(computed)}
    for run in expand(spec()):
        manifest = find_manifest(computed, run.run_id)
        assert manifest is not None
        found = manifest.card["routing"].get("posterior")
        assert (found is not None) == (not run.deterministic and run.control in ("none", "beta-zero"))
        if found is None:
            assert listed[run.run_id]["learned"] is None
            continue
        assert listed[run.run_id]["learned"] == ("learned" if found["learned"] else "not learned")
        folder = Inputs(spec(), [], settings(computed)).parts.routers(run.method, run.control)
        assert folder is not None
        assert found["kept_step"] == json.loads((folder / "training.json").read_text())["best_step"]
        assert [one["layer"] for one in found["layers"]] == [1]


def test_own_mean_and_prior_covariance_are_the_trained_routers_with_another_spread(computed: Path) -> None:
    session = Session(Inputs(spec(), [], settings(computed)))
    prepare_experiment(session)
    heads = {}
    for run in expand(session.spec):
        if run.control in ("none", "own-mean", "prior-covariance") and run.method == "mfvr":
            handle = session.apply(run).handle
            assert handle is not None
            heads[run.control] = {name: value.clone() for name, value in handle.head(1).state_dict().items()}
    trained = heads["none"]
    assert all(torch.equal(head["mean_head.weight"], trained["mean_head.weight"]) for head in heads.values())
    assert trained["log_std_head.weight"].any()
    assert torch.equal(heads["own-mean"]["noise_scale"], torch.zeros(()))
    assert not heads["prior-covariance"]["log_std_head.weight"].any()
    session.resident.clear()


def test_untrained_heads_get_a_tuned_noise_too(computed: Path) -> None:
    session = Session(Inputs(spec(), [], settings(computed)))
    prepare_experiment(session)
    run = next(run for run in expand(session.spec) if (run.control, run.estimator) == ("untrained", "predictive"))
    manifest = find_manifest(computed, run.run_id)
    assert manifest is not None
    factor = manifest.card["routing"]["noise_factor"]
    part, resident = session.spec.routers.train, session.resident
    assert part is not None
    validation = load_questions(part.validation, "validation", [], session.inputs.settings)
    with session.native(), session.handle(run) as handle:
        rows = tuned_noise(session, handle, validation)
    values = [value for *_, value in rows]
    nll = dict(zip(values[::2], values[1::2], strict=True))
    assert nll[factor] == min(nll.values())
    assert len(set(nll.values())) > 1
    applied = session.apply(run).handle
    assert applied is not None
    assert {float(applied.head(layer).noise_scale) for layer in applied.layers} == {factor}
    resident.clear()


def test_second_experiment_finds_what_the_first_has_trained(computed: Path) -> None:
    first, other = (Inputs(one, [], settings(computed)) for one in (spec(), spec(name="other", seed=9)))
    assert first.parts.adapter() == other.parts.adapter()
    assert first.parts.map_routers() == other.parts.map_routers()
    assert first.parts.routers("mfvr") == other.parts.routers("mfvr")
    reseeded = spec(routers={"train": {**SPEC["routers"]["train"], "sampling_seed": 1}})
    assert Inputs(reseeded, [], settings(computed)).parts.routers("mfvr") != first.parts.routers("mfvr")


def test_rows_of_one_experiment_must_share_their_base(computed: Path) -> None:
    inputs = Inputs(spec(), [], settings(computed))
    run = expand(inputs.spec)[-1]
    manifest = find_manifest(computed, run.run_id)
    assert manifest is not None
    check_same_base(inputs, run, manifest.card["base"])
    for key, what in (("adapter_sha256", "adapter"), ("routers_sha256", "base routers")):
        with pytest.raises(PipelineError, match=f"its {what} differ"):
            check_same_base(inputs, run, {**manifest.card["base"], key: "f" * 64})


def test_adapter_of_another_hash_ends_the_job_with_its_name(computed: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(computed, home)
    folder = Inputs(spec(), [], settings(home)).parts.map_routers()
    assert folder is not None
    config = json.loads((folder / "map.json").read_text())
    (folder / "map.json").write_text(json.dumps(signed({**config, "adapter_sha256": "0" * 64})))
    (tmp_path / "spec.yaml").write_text(json.dumps({**SPEC, "name": "again", "methods": ["deterministic"]}))
    done = vmoer(home, "run", str(tmp_path / "spec.yaml"), "--device", "cpu")
    assert done.returncode == 3
    assert "was trained beside adapter 000000000000; this model carries adapter" in done.stderr
    assert "Traceback" not in done.stderr


def test_training_on_evaluated_questions_is_refused(tmp_path: Path) -> None:
    leaky = {**TRAIN, "data": {"name": "worldfacts", "split": "test", "limit": 24}}
    (tmp_path / "spec.yaml").write_text(json.dumps({**SPEC, "adapter": {"train": leaky}}))
    done = vmoer(tmp_path / "home", "run", str(tmp_path / "spec.yaml"), "--device", "cpu")
    assert done.returncode == 3
    assert "training uses 24 questions of 'test', which this experiment evaluates" in done.stderr


def test_archive_holds_results_alone_and_reads_back_beside_the_originals(computed: Path, tmp_path: Path) -> None:
    ids = [run.run_id for run in expand(spec())]
    label = {"commit": "abc", "date": "2026-11-25"}
    first, second = (
        write_archive(computed, ids, tmp_path / f"{name}.zip", _made(tmp_path / name), label) for name in ("a", "b")
    )
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert not [name for name in archive.namelist() if "table=tokens" in name or "table=routing" in name]
    home = tmp_path / "new"
    assert read_archive(first, home) == sorted(f"{run_id}.archived" for run_id in ids)
    assert read_archive(first, home) == sorted(f"{run_id}.archived" for run_id in ids), "a second time changes nothing"
    assert verify(home) == []
    with open_store(home) as ours, open_store(computed) as theirs:
        columns = "dataset, metric, score, position_rule, aggregation, value, ci_low, ci_high, n"
        sql = f"SELECT {columns} FROM metrics WHERE run_id LIKE ? ORDER BY ALL"  # noqa: S608  fixed names
        for run_id in ids:
            assert ours.query(sql, [f"{run_id}.archived"]).equals(theirs.query(sql, [run_id]))
        runs = ours.query("SELECT name, experiment FROM runs")
        known = set(ours.query("SELECT run_id FROM runs")["run_id"])
        assert set(ours.query("SELECT baseline_run_id FROM comparisons")["baseline_run_id"]) <= known
    assert set(runs["name"]) == {"based (archived 2026-11-25, abc)"}
    assert runs["experiment"].str.startswith("archived-").all()


def test_an_import_that_was_killed_before_publishing_is_finished_by_the_next(
    computed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [run.run_id for run in expand(spec())]
    path = write_archive(computed, ids, tmp_path / "a.zip", _made(tmp_path / "scratch"), {})
    home = tmp_path / "new"

    def killed(_: Path) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr("store.archive.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            read_archive(path, home)
    assert current_number(home) is None
    wanted = read_archive(path, home)
    assert current_number(home) == 1
    with open_store(home) as store:
        assert sorted(store.query("SELECT run_id FROM runs")["run_id"]) == wanted
    read_archive(path, home)
    assert current_number(home) == 1, "nothing new, nothing published"


def test_an_archive_of_summaries_has_no_rows_per_question(computed: Path, tmp_path: Path) -> None:
    ids = [run.run_id for run in expand(spec())]
    path = write_archive(computed, ids, tmp_path / "small.zip", _made(tmp_path / "scratch"), {}, summaries=True)
    read_archive(path, tmp_path / "new")
    assert verify(tmp_path / "new") == []
    with open_store(tmp_path / "new") as ours, open_store(computed) as theirs:
        for name in ("metrics", "training_log"):
            assert len(ours.query(f"SELECT * FROM {name}")) == len(theirs.query(f"SELECT * FROM {name}"))  # noqa: S608  fixed names
        assert [len(ours.query(f"SELECT * FROM {name}")) for name in PER_QUESTION] == [0, 0]  # noqa: S608  fixed names
        assert len(theirs.query("SELECT * FROM predictions"))


def test_a_large_archive_of_summaries_keeps_the_training_steps_with_a_validation(
    computed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [run.run_id for run in expand(spec())]
    whole = write_archive(computed, ids, tmp_path / "a.zip", _made(tmp_path / "a"), {}, summaries=True)
    monkeypatch.setattr("store.archive.MAX_BYTES", whole.stat().st_size - 1)
    path = write_archive(computed, ids, tmp_path / "b.zip", _made(tmp_path / "b"), {}, summaries=True)
    read_archive(path, tmp_path / "new")
    assert verify(tmp_path / "new") == []
    with open_store(tmp_path / "new") as ours, open_store(computed) as theirs:
        steps = "SELECT DISTINCT step FROM training_log ORDER BY step"
        validated = "SELECT DISTINCT step FROM training_log WHERE quantity = 'validation_nll' OR step = 1 ORDER BY step"
        assert ours.query(steps).equals(theirs.query(validated))
        assert len(ours.query(steps)) < len(theirs.query(steps))
    monkeypatch.setattr("store.archive.MAX_BYTES", 1000)
    with pytest.raises(InvalidDataError, match="at most 1000 are allowed"):
        write_archive(computed, ids, tmp_path / "c.zip", _made(tmp_path / "c"), {}, summaries=True)


def test_hostile_archives_are_refused_by_name(computed: Path, tmp_path: Path) -> None:
    for number, member in enumerate(
        ("../evil.json", "facts/table=routing/run_id=x/part-0123456789abcdef.parquet", "x")
    ):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, b"{}")
        with pytest.raises((CorruptStoreError, NotFoundError)):
            read_archive(path, tmp_path / "home")
    (tmp_path / "broken.zip").write_bytes(b"not a zip")
    with pytest.raises(CorruptStoreError, match="cannot be read as an archive"):
        read_archive(tmp_path / "broken.zip", tmp_path / "home")
    with pytest.raises(NotFoundError, match="there is no archive"):
        read_archive(tmp_path / "none.zip", tmp_path / "home")
    assert not (tmp_path / "evil.json").exists()
    with pytest.raises(NotFoundError, match="no run to archive"):
        write_archive(computed, [], tmp_path / "out.zip", _made(tmp_path / "scratch"), {})


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_damaged_archive_leaves_nothing_behind(computed: Path, tmp_path: Path, kind: int) -> None:
    ids = [run.run_id for run in expand(spec())][:2]
    whole = write_archive(computed, ids, tmp_path / "whole.zip", _made(tmp_path / "scratch"), {})
    with zipfile.ZipFile(whole) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    generator = random.Random(0)
    path = tmp_path / "damaged.zip"
    for name in [None, *members]:  # a byte of the file, or of one member whose checksum is then right again
        changed = dict(members)
        if name is not None:
            changed[name] = _flipped(members[name], generator)
        with zipfile.ZipFile(path, "w", kind) as made:
            for member, content in changed.items():
                made.writestr(member, content)
        if name is None:
            path.write_bytes(_flipped(path.read_bytes()[: path.stat().st_size // 2], generator))
        with pytest.raises(CorruptStoreError, match=r"damaged\.zip|manifest runs/"):
            read_archive(path, tmp_path / "home")
        assert not (tmp_path / "home").exists()
    with zipfile.ZipFile(path, "w", kind) as made:
        for member, content in members.items():
            if not member.startswith("runs/"):
                made.writestr(member, content)
    with pytest.raises(CorruptStoreError, match="of a run without its manifest"):
        read_archive(path, tmp_path / "home")


def _flipped(content: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(content) // 4, len(content) // 2)
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_unfinished_runs_are_not_archived(computed: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(computed, home)
    run_id = expand(spec())[0].run_id
    write_manifest(home, replace(read_manifest(home, run_id), status="failed"))
    with pytest.raises(InvalidDataError, match="is failed; only finished runs are archived"):
        write_archive(home, [run_id], tmp_path / "out.zip", _made(tmp_path / "scratch"), {})
