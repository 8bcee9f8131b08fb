"""The step *prepare*: what a run needs is trained, chosen and measured, and nothing is after it.

An experiment is prepared first (:func:`prepare_experiment`: its base and the layers of its methods), then each run
(:func:`prepare_run`), whose :class:`Setup` goes into its manifest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.errors import SpecError
from pipelines.preparation.controls import matched_noise, tuned_control
from pipelines.preparation.train import ensure_base, ensure_method, kept_step_of
from pipelines.session.batching import encode_batches
from pipelines.session.checkpoints import router_folder
from pipelines.session.session import Session
from pipelines.spec.runs import RunPlan
from store.catalog import find_manifest
from vmoer.attach import choose_layers
from vmoer.errors import CheckpointError
from vmoer.layers import MEASURED, describe, parse
from vmoer.measure.learned import KL_LIMIT, has_learned, layer_posteriors
from vmoer.routers.base import routers

_LAYERS_DEFAULT = "all"


@dataclass(frozen=True)
class Setup:
    """What the manifest of a run says about its routing and its base.

    ``layers`` have Bayesian routers, ``routers`` names their source, ``card`` holds what they are made with, ``base``
    the name of the base and the hashes of its weights.
    """

    base: dict[str, Any]
    layers: list[int] = field(default_factory=list)
    routers: str | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, for the record of the step."""
        return asdict(self)


def prepare_experiment(session: Session) -> dict[str, list[int]]:
    """Train the base if it is missing, and choose the layers of every method; the session keeps and returns them.

    Texts that are longer than the model can read are refused before anything is computed.
    """
    session.texts()
    ensure_base(session, session.spec.base)
    methods = [method for method in session.spec.methods if method != "deterministic"]
    session.layers = {method: choose(session, method) for method in methods}
    return session.layers


def prepare_run(session: Session, run: RunPlan) -> Setup:
    """Train the routers of a run and the base under them if they are missing, and set the strength of its noise."""
    name = run.base(session.spec)
    ensure_base(session, name)
    before = find_manifest(session.home, run.run_id)
    begun = before is not None and run.noisy
    if not (run.deterministic or begun or run.control == "untrained"):
        ensure_method(session, run.method, run.control if run.control == "beta-zero" else "none")
    with session.native(name):
        base = {"base": name, **session.resident.base.identity()}
    if run.deterministic:
        return Setup(base)
    if run.noisy:
        return Setup(base, card=before.card["routing"] if before is not None else matched_noise(session, run))
    layers = session.layers_of(run.method)
    card = {"layers": layers, "options": session.spec.options.get(run.method, {})}
    if run.control in ("untrained", "prior-covariance"):
        card |= tuned_control(session, run)
    if run.control in ("none", "beta-zero"):
        card |= trained_posterior(session, run, name)
    return Setup(base, layers, _source(session, run), card)


def trained_posterior(session: Session, run: RunPlan, base: str) -> dict[str, Any]:
    """``posterior``: what :mod:`vmoer.measure.learned` says of a run's trained routers; empty for untrained ones."""
    folder = router_folder(session.inputs, run.method, run.control)
    if folder is None:
        return {}

    def measure() -> dict[str, Any]:
        kept = kept_step_of(folder)
        with session.native(base), session.handle(run) as handle:
            rows = layer_posteriors(handle, encode_batches(session.inputs, session.resident, limit=32))
        learned, why = has_learned(rows, kept)
        measured = [asdict(row) for row in rows]
        return {"learned": learned, "why": why, "kept_step": kept, "kl_limit": KL_LIMIT, "layers": measured}

    return {"posterior": session.remember(f"posterior {run.method} {run.control}", measure)}


def _source(session: Session, run: RunPlan) -> str | None:
    """Return where the routers of a run come from, in words; ``None`` for a method without parameters."""
    source = session.spec.routers.source or "trained by this spec"
    if not routers.get(run.method).trainable:
        return None
    if run.control == "untrained":
        return "as initialised"
    changed = {
        "beta-zero": "with β = 0",
        "own-mean": "without noise",
        "prior-covariance": "with the prior's covariance",
    }
    return ", ".join([source, *([changed[run.control]] if run.control in changed else [])])


def choose(session: Session, method: str) -> list[int]:
    """Return the layers of a method's routers: their checkpoint's, or those that the spec asks for.

    A checkpoint for other layers than the spec asks for is refused.
    """
    wanted = session.spec.layers
    folder = router_folder(session.inputs, method)
    if folder is None or session.spec.routers.train is not None:
        selection = _LAYERS_DEFAULT if wanted is None else wanted
        measured = parse(selection)[0] in MEASURED
        calibration = encode_batches(session.inputs, session.resident, limit=32, answers=True) if measured else None
        with session.native() as model:
            return choose_layers(model, selection, calibration)
    try:
        saved = [int(layer) for layer in json.loads((folder / "routers.json").read_text(encoding="utf-8"))["layers"]]
    except FileNotFoundError:
        raise CheckpointError(f"No router checkpoint in {folder.name}: routers.json is missing.") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder.name}/routers.json is not a router checkpoint.") from None
    if wanted is None or parse(wanted)[0] in MEASURED:
        return saved  # a measured choice was made when the routers were trained
    with session.native() as model:
        asked = choose_layers(model, wanted, None)
    if asked != saved:
        raise SpecError(
            f"layers: the {method} routers were trained for layers {describe(saved)}, the spec asks for "
            f"{describe(asked)}; leave `layers` out to use theirs"
        )
    return saved
