"""The step *prepare*: all training and measuring before a run happens there, under its own name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dbos import DBOS

import vmoer
from pipelines.errors import JobError, PipelineError
from pipelines.jobs import client as jobs
from pipelines.preparation import controls as noise_control
from pipelines.preparation import train
from pipelines.preparation.controls import matched_noise
from pipelines.preparation.setup import prepare_experiment
from pipelines.session.checkpoints import router_folder
from pipelines.session.inputs import Inputs
from pipelines.session.session import Session
from pipelines.settings import Settings
from pipelines.spec.model import parse_spec
from pipelines.spec.runs import expand
from pipelines.worker import workflow as engine
from pipelines.worker.foreground import compute
from store.catalog import read_manifest
from store.run_tables import RunTables
from tests.pipelines.support import settings
from vmoer.errors import CheckpointError
from vmoer.routers import routers

TRAIN = {
    "data": {"name": "worldfacts", "split": "train", "limit": 12},
    "validation": {"name": "worldfacts", "split": "validation", "limit": 4},
    "epochs": 1,
    "evaluate_every": 1,
    "batch_size": 12,
    "tune_noise": True,
}
SPEC: dict[str, Any] = {
    "name": "prepared",
    "model": "worldfacts-moe",
    "methods": ["mfvr"],
    "layers": [1],
    "estimators": ["in-router"],
    "controls": ["untrained", "non-routing-noise"],
    "samples": 2,
    "predictive_samples": 2,
    "routers": {"train": TRAIN},
    "data": {"id": {"name": "worldfacts", "split": "test", "limit": 6}},
    "stages": ["evaluate"],
    "bootstrap": 100,
}


def test_only_prepare_trains_or_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise control comes first, so that it is its step *prepare* which trains the method."""
    calls: list[tuple[str, str]] = []
    now: list[str] = []

    def seen(module: Any, name: str) -> None:
        real = getattr(module, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            calls.append((name, now[-1]))
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    seen(train, "train")
    seen(noise_control, "matched_scale")
    seen(noise_control, "tuned_noise")
    seen(train, "tuned_noise")
    real_step = engine.step

    def step(job: Any, name: str, *arguments: Any) -> Any:
        now.append(name)
        return real_step(job, name, *arguments)

    stages: list[str] = []
    real_event = DBOS.set_event

    def event(key: str, value: Any) -> None:
        if now and now[-1].endswith(": prepare") and value["stage_total"]:
            stages.append(value["stage"])
        real_event(key, value)

    monkeypatch.setattr(engine, "step", step)
    monkeypatch.setattr(DBOS, "set_event", event)
    job = compute(parse_spec(SPEC), [], settings(tmp_path), quiet=True)
    assert job.status == "finished"

    runs = {run.control: run.run_id for run in expand(parse_spec(SPEC)) if not run.deterministic}
    noise, untrained = (f"{runs[control]}: prepare" for control in ("non-routing-noise", "untrained"))
    assert calls == [
        ("train", noise),
        ("tuned_noise", noise),
        ("matched_scale", noise),
        ("tuned_noise", untrained),
    ]
    assert set(stages) == {"prepare"}, "training shows its progress under the name of the step"
    for run_id in runs.values():
        steps = [name for name in now if name.startswith(f"{run_id}: ")]
        assert steps[:2] == [f"{run_id}: prepare", f"{run_id}: begin"]
    assert len(RunTables(tmp_path, runs["none"]).table("training_log")), "the method's own run has the log"
    assert read_manifest(tmp_path, runs["non-routing-noise"]).card["routing"]["noise_scale"] > 0


def test_a_mean_that_training_has_moved_does_not_count_as_noise(tmp_path: Path) -> None:
    """Noise is matched to the spread around a method's own mean: no spread, no noise; the spread alone otherwise."""
    scales = {}
    for factor in (0.0, 1.0):
        for shift in (0.0, 2.0):
            folder = tmp_path / f"{factor}-{shift}"
            model, _ = vmoer.load_model("worldfacts-moe")
            with vmoer.bayesianize(model, method="mfvr", samples=2, estimator="predictive") as handle:
                generator = torch.Generator().manual_seed(0)
                for layer in handle.layers:
                    torch.nn.init.normal_(handle.head(layer).mean_head.weight, std=shift, generator=generator)
                handle.scale_noise(factor)
                handle.save(folder)
            spec = parse_spec({**SPEC, "layers": None, "routers": str(folder)})
            session = Session(Inputs(spec, [], settings(tmp_path)))
            prepare_experiment(session)
            run = next(run for run in expand(session.spec) if run.control == "non-routing-noise")
            card = matched_noise(session, run)
            assert card["noise_nats"] == pytest.approx(card["matched_nats"], rel=0.15, abs=1e-12)
            scales[factor, shift] = card["noise_scale"]
            session.resident.clear()
    assert max(scales[0.0, 0.0], scales[0.0, 2.0]) < 1e-4, "float noise at most"
    assert scales[1.0, 0.0] > 0.01
    assert scales[1.0, 2.0] > 0.01


def test_a_session_trains_nothing_by_itself(tmp_path: Path) -> None:
    session = Session(Inputs(parse_spec(SPEC), [], settings(tmp_path)))
    run = expand(session.spec)[-1]
    with pytest.raises(CheckpointError, match=r"routers\.json is missing"):
        session.apply(run)
    with pytest.raises(PipelineError, match="prepare the experiment first"):
        session.layers_of("mfvr")
    assert not (tmp_path / "routers").exists()


def test_a_job_of_other_steps_is_refused_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = jobs.workflow_input

    def earlier(*arguments: Any) -> dict[str, Any]:
        return {key: value for key, value in real(*arguments).items() if key != "steps"}

    monkeypatch.setattr(jobs, "workflow_input", earlier)
    with pytest.raises(JobError, match="begun by another version of VMoER, whose steps differ; submit its spec again"):
        compute(parse_spec(SPEC), [], settings(tmp_path), quiet=True)
    assert not (tmp_path / "routers").exists()


def test_a_third_partys_method_without_parameters_has_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(routers._loaded, "own", type("Own", (routers.get("temperature"),), {"method": "own"}))
    questions = {"name": "worldfacts", "split": "test"}
    spec = parse_spec({"model": "worldfacts-moe", "methods": ["own", "fcvr"], "data": {"id": questions}})
    inputs = Inputs(spec, (), Settings())
    assert router_folder(inputs, "own") is None
    assert router_folder(inputs, "fcvr") is not None
