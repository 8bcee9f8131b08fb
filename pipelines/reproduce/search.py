"""The search for a routing posterior that learns something: each configuration against all that it has to beat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from pipelines.reproduce.cells import Section, cell, difference_text, interval_text, run_label
from pipelines.reproduce.results import Results
from vmoer.methods import has_prior_covariance

PREFIX = "search-"
#: the experiments that set the routers of ``main`` against every control, and what they are called among configurations
_MAIN, _AS_IN_MAIN = ("controls", "search-main"), "as in main"
#: (ECE, NLL) as answered, and after one temperature fitted on the validation questions
_KINDS = {"as it comes": ("ece", "nll"), "scaled": ("ece_ts", "nll_ts")}
DIFFERENCES = ("Δ ECE", "Δ NLL", "Δ ECE, scaled", "Δ NLL, scaled")
#: what each configuration must beat besides pretrained routers; the second only where its method has such a prior
_CONTROLS = ("untrained", "prior-covariance", "non-routing-noise", "moe-noise")
#: question sets on which a configuration has to hold
SETS_NEEDED = 2


@dataclass(frozen=True)
class Duel:
    """One configuration against one opponent on one question set.

    ``won`` names the kinds in which NLL is lower and so is ECE, unless the opponent's ECE is what chance shows of a
    calibrated model, which nothing can surely lower. ``lower_nll`` names those in which NLL is lower, whatever ECE
    does. ``kept`` is the training step whose weights were kept, of how many, ``learned`` whether the posterior has left
    its prior.
    """

    questions: str
    configuration: str
    opponent: pd.Series
    pairs: list[pd.Series | None]
    won: tuple[str, ...]
    lower_nll: tuple[str, ...] = ()
    kept: tuple[int, int] | None = None
    learned: bool | None = None


def duels(results: Results) -> list[Duel]:
    """Every paired comparison of a configuration with a deterministic row or a control of its own."""
    found = []
    for part in sorted(part for part in results.runs["part"].unique() if part.startswith(PREFIX) or part in _MAIN):
        configuration = _AS_IN_MAIN if part in _MAIN else part.removeprefix(PREFIX)
        for questions in sorted(results.of(part)["questions"].unique()):
            runs = results.of(part, questions)
            for _, run in runs[(runs["estimator"] == "predictive") & (runs["control"] == "none")].iterrows():
                inside = results.datasets(run, "in-distribution")[0]
                others = runs[(runs["run_id"] != run["run_id"]) & runs["method"].isin(["deterministic", run["method"]])]
                for _, other in others.iterrows():
                    rows = {
                        metric: results.difference(run["run_id"], other["run_id"], inside, metric)
                        for metrics in _KINDS.values()
                        for metric in metrics
                    }
                    if rows["ece"] is None:
                        continue
                    lower = tuple(kind for kind, (_, nll) in _KINDS.items() if _better(rows[nll]))
                    won = tuple(
                        kind
                        for kind in lower
                        if _better(rows[_KINDS[kind][0]]) or results.at_chance(other["run_id"], inside, _KINDS[kind][0])
                    )
                    kept, learned = results.kept_step(run["run_id"]), results.learned(run)
                    pairs = list(rows.values())
                    found.append(Duel(questions, configuration, other, pairs, won, lower, kept, learned))
    return found


def holds(mine: Iterable[Duel], nll_alone: bool = False) -> bool:
    """Whether a configuration counts on a set: it beats pretrained routers as it comes and scaled, and each control.

    A posterior that has not left its prior never counts. ``nll_alone`` asks that of NLL and leaves ECE aside.
    """
    mine = list(mine)
    if any(one.learned is False for one in mine):
        return False
    fared = {
        str(one.opponent["control"]): one.lower_nll if nll_alone else one.won for one in mine if _matters(one.opponent)
    }
    methods = {str(one.opponent["method"]) for one in mine} - {"deterministic"}
    prior = any(has_prior_covariance(method) for method in methods)
    wanted = [control for control in _CONTROLS if prior or control != "prior-covariance"]
    return len(fared.get("none", ())) == len(_KINDS) and all(fared.get(control) for control in wanted)


def outcome(found: list[Duel]) -> tuple[str, str] | None:
    """``(verdict, how each configuration fared)``; ``None`` when nothing was searched."""
    if not found:
        return None
    told, alone, best = [], [], 0
    for configuration in sorted({one.configuration for one in found}):
        mine = [one for one in found if one.configuration == configuration]
        sets = sorted({one.questions for one in mine})
        held, lower = (
            sum(holds((one for one in mine if one.questions == name), nll_alone) for name in sets)
            for nll_alone in (False, True)
        )
        of = f"of {len(sets)} {'set' if len(sets) == 1 else 'sets'}"
        told.append(f"{configuration} on {held} {of}")
        if lower > held:
            alone.append(f"{configuration} on {lower} {of}")
        best = max(best, held)
    nll = f"; in NLL alone: {', '.join(alone) or 'none'}" if best < SETS_NEEDED else ""
    return ("found" if best >= SETS_NEEDED else "not found"), ", ".join(told) + nll


def search_section(found: list[Duel]) -> Section:
    """Trained posteriors against everything they have to beat, one row per opponent."""
    rows = [
        [
            one.questions,
            one.configuration,
            "–" if one.kept is None else f"{one.kept[0]} of {one.kept[1]}",
            {True: "yes", False: "no", None: "–"}[one.learned],
            run_label(one.opponent),
            *map(difference_text, one.pairs),
            str(int(one.pairs[0]["n"])) if one.pairs[0] is not None else "–",
            _better_in(one),
        ]
        for one in found
    ]
    return Section(
        "Search for a posterior that learns",
        "`fcvr`, where a configuration names no other method, answers averaged over routing samples; the suite's file "
        "says how each was trained, and whether σ was tuned on validation NLL; `as in main` are the routers of the "
        "main experiment. `step` is whose weights were kept, for the best validation NLL; at 0 training has improved "
        "nothing over the untrained heads. `learned` says whether the posterior has left its prior; one that has not "
        "never counts. Each row is the paired difference to one opponent, lower is better; *better* means that NLL "
        "improves with an interval that leaves out zero, and ECE too unless the opponent's cannot be told from a "
        "calibrated model's, as it comes or after temperature scaling; *NLL alone* that ECE does not. Where a name "
        "ends in `-fresh`, the same weights answered test questions that the search had not used. A configuration "
        "counts on a set if it beats pretrained routers both ways, and each control (untrained heads, the trained mean "
        "with the prior's covariance, the two noises) in one of them; it is *found* if it counts on "
        f"{SETS_NEEDED} sets. "
        "What training the routers alone does, without a posterior, is in E2 (`map-…`).",
        ("questions", "configuration", "step", "learned", "against", *DIFFERENCES, "n", "better"),
        rows,
    )


def room_section(results: Results) -> Section:
    """What the base leaves to gain on each set: where there is nothing, nothing can be found."""
    rows = []
    for _, run in results.of("main").iterrows():
        inside = results.datasets(run, "in-distribution")[0]
        accuracy, *errors = (results.value(run["run_id"], inside, metric) for metric in ("accuracy", "ece", "ece_ts"))
        if run["bayesian"] or run["control"] != "none" or accuracy is None:
            continue
        chance = [results.chance_ece(run["run_id"], inside, kind) for kind in ("raw", "temperature-scaled")]
        rows.append(
            [
                run["questions"],
                f"{cell(accuracy['value'])} ({interval_text(accuracy['ci_low'], accuracy['ci_high'])})",
                *(
                    text
                    for row, by_chance in zip(errors, chance, strict=True)
                    for text in (cell(None if row is None else row["value"]), cell(by_chance))
                ),
                str(int(accuracy["n"])),
            ]
        )
    return Section(
        "Search: what there is to gain",
        "The model with pretrained routers (adapted, where an adapter is trained). Where its accuracy is that of "
        "guessing it has nothing to be sure of. Where its ECE is hardly above what a calibrated model would show by "
        "chance on as many questions, hardly any configuration can surely lower it, and the set will not count.",
        ("questions", "accuracy (95 % interval)", "ECE", "by chance", "ECE, scaled", "by chance, scaled", "n"),
        rows,
    )


def _better_in(one: Duel) -> str:
    """In which kinds a configuration is better than its opponent, in words."""
    alone = " and ".join(kind for kind in one.lower_nll if kind not in one.won)
    return "; ".join(filter(None, [" and ".join(one.won), alone and f"NLL alone {alone}"])) or "no"


def _matters(opponent: pd.Series) -> bool:
    """The base itself, or a control of the configuration's own; other deterministic rows are shown only."""
    return bool(opponent["method"] != "deterministic" or opponent["control"] == "none")


def _better(row: pd.Series | None) -> bool:
    return row is not None and not pd.isna(row["ci_high"]) and float(row["ci_high"]) < 0
