"""The document of a suite: verdicts first, then the tables behind them, as Markdown and LaTeX, from the store alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pandas as pd

from pipelines.reproduce.cells import Section, cell, percent_text
from pipelines.reproduce.checks import repeats_section, training_section
from pipelines.reproduce.claims import CLAIMS, FLOPS, overall
from pipelines.reproduce.evidence import (
    calibration_section,
    cost_section,
    letter_section,
    leverage_section,
    ood_section,
    stability_section,
    temperature_section,
    variant_sections,
)
from pipelines.reproduce.results import Finding, Results
from pipelines.reproduce.search import SETS_NEEDED, Duel, duels, outcome, room_section, search_section
from store.export import latex_text

#: rows of a table that a document still holds
LONG = 150
#: in the order of the table
VERDICTS = ("inverted", "not reproduced", "cannot judge", "reproduced", "not computed")
SEARCHED = (
    "constructive: a trained routing posterior whose averaged answers have better ECE and NLL than pretrained routers, "
    f"temperature scaling and every control, on {SETS_NEEDED} sets"
)


def sections(results: Results) -> list[Section]:
    """Everything the document says, in order; an experiment that was not run says so."""
    findings, found = results.findings(), duels(results)
    return [
        headlines(results, findings, found),
        _verdicts(findings),
        stability_section(results),
        calibration_section(results),
        repeats_section(results),
        training_section(results),
        letter_section(results),
        ood_section(results),
        *variant_sections(results),
        temperature_section(results),
        search_section(found),
        *([room_section(results)] if found else []),
        leverage_section(results),
        cost_section(results),
    ]


def markdown(results: Results, said: Sequence[Section], title: str, stem: str) -> str:
    """Return the document of :func:`sections` as Markdown; a long table is left to its page of :func:`pages`."""
    lines = [f"# {title}", "", *_preamble(results)]
    for section in said:
        lines += ["", f"## {section.title}", "", section.text]
        if len(section.rows) > LONG:
            lines += ["", f"The table has {len(section.rows)} rows and a page of its own: `{_page(stem, section)}`."]
        elif section.rows:
            lines += _table(section)
        elif section.header:
            lines += ["", "*Not run in this form.*"]
    return "\n".join(lines) + "\n"


def pages(said: Sequence[Section], title: str, stem: str) -> dict[str, str]:
    """Return the page of each long table as Markdown, by file name."""
    made = {}
    for section in said:
        if len(section.rows) > LONG:
            head = [f"# {title}: {section.title}", "", section.text, "", f"Part of [{title}]({stem}.md)."]
            made[_page(stem, section)] = "\n".join([*head, *_table(section)]) + "\n"
    return made


def _page(stem: str, section: Section) -> str:
    return f"{stem}-{re.sub('[^a-z0-9]+', '-', section.title.lower())}.md"


def _table(section: Section) -> list[str]:
    lines = ["", "| " + " | ".join(section.header) + " |", "|" + " --- |" * len(section.header)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in section.rows]


def latex(said: Sequence[Section]) -> str:
    """The tables alone, for a paper (needs ``booktabs``)."""
    lines = ["% made by `vmoer reproduce`; needs \\usepackage{booktabs}"]
    for section in said:
        if not section.rows:
            continue
        lines += ["", f"% {section.title}", f"\\begin{{tabular}}{{{'l' * len(section.header)}}}", "\\toprule"]
        lines += [" & ".join(map(latex_text, section.header)) + " \\\\", "\\midrule"]
        lines += [" & ".join(map(latex_text, row)) + " \\\\" for row in section.rows]
        lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def _preamble(results: Results) -> Iterator[str]:
    runs = results.runs
    if runs.empty:
        yield "No run of this suite is stored."
        return
    cards = runs["card"].tolist()
    commits = sorted({str(card.get("commit") or "unknown")[:12] for card in cards})
    started = pd.to_datetime(runs["started_at"]).min()
    ended = pd.to_datetime(runs["ended_at"]).max()
    yield (
        f"Made by `vmoer reproduce` from {len(runs)} stored runs of `{runs['model'].iloc[0]}`; nothing here is typed. "
        f"Computed {started:%Y-%m-%d} to {ended:%Y-%m-%d} (UTC), commit {', '.join(commits)}, "
        f"on {', '.join(sorted(runs['device'].unique()))} in {', '.join(sorted(runs['dtype'].unique()))}."
    )
    if bool(runs["synthetic"].any()):
        yield ""
        yield "**The model is a toy trained by this project: these are mechanisms, not findings about large models.**"
    yield ""
    yield (
        "Intervals are 95 % bootstrap intervals over questions, paired where two rows are compared on the same "
        "questions. They do not cover training, except where seeds are listed one by one. A relative change takes the "
        "baseline's value as fixed."
    )


def headlines(results: Results, findings: list[Finding], found: list[Duel]) -> Section:
    """One row per claim, those that do not hold first; last, whether the search found what would."""
    rows = []
    for claim in CLAIMS:
        mine = [finding for finding in findings if finding.claim is claim]
        fair = [finding for finding in mine if finding.baseline.startswith("pretrained routers")]
        chosen = fair or mine
        word = overall(finding.word for finding in chosen)
        counts = {name: sum(one.word == name for one in chosen) for name in VERDICTS}
        detail = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        rows.append([claim.text, word or "not computed", detail or "no comparison in this form"])
    shares = [
        (share, word) for run, share, word in results.flops() if run["method"] == "fcvr" and run["control"] == "none"
    ]
    shown = ", ".join(sorted({f"{100 * share:.2f} %" for share, _ in shares}))
    rows.append([FLOPS.text, overall(word for _, word in shares) or "not computed", shown or "no count in this form"])
    rows.sort(key=lambda row: VERDICTS.index(row[1]))
    searched = outcome(found)
    if searched is not None:
        rows.append([SEARCHED, *searched])
    return Section(
        "Verdicts",
        "For `fcvr` with the in-router estimator against the same model with pretrained routers. *Reproduced*: the "
        "paired interval leaves out zero on the claimed side and reaches the claimed size, on every comparison that "
        "can be judged; *inverted*: it leaves out zero on the other side, on every one; *not reproduced*: it stays "
        "below the claimed size, or comparisons differ. *Cannot judge*: the posterior has not left its prior, no "
        "method could do what is claimed from this baseline, or the interval holds both zero and the claimed size. "
        "What disagrees with the paper comes first.",
        ("claim", "verdict", "comparisons"),
        rows,
    )


def _verdicts(findings: list[Finding]) -> Section:
    rows = [
        [
            one.claim.name,
            one.questions if one.claim.metric != "auroc" else f"{one.questions} / {one.outside}",
            one.baseline,
            cell(one.before),
            cell(one.value),
            f"{100 * one.change.relative:+.1f} %",
            percent_text(one.change.low, one.change.high),
            _error_reduced(one),
            f"{100 * one.claim.size:+.0f} %",
            str(one.change.n),
            _matched_text(one),
            one.word,
            one.why or "–",
        ]
        for one in findings
    ]
    header = (
        "claim",
        "questions",
        "baseline",
        "baseline value",
        "fcvr",
        "change",
        "95 % interval",
        "of the room left",
        "claimed",
        "n",
        "equally long prompts",
        "verdict",
        "why not",
    )
    text = (
        "Intervals are cut to what is possible. `of the room left` is the change as a share of the way from the "
        "baseline to the best possible value (for stability: the reduction of 1 − J). `n` counts paired questions (for "
        "OoD: both sets). `equally long prompts` is the control for length: the AUROC of `fcvr` against the baseline's "
        "on prompts matched by length. An OoD claim is *reproduced* only if `fcvr` is ahead there too."
    )
    return Section("Every comparison", text, header, rows)


def _error_reduced(one: Finding) -> str:
    room = abs(one.claim.best - one.before)
    towards = one.value - one.before if one.claim.best > one.before else one.before - one.value
    return f"{100 * towards / room:+.1f} %" if room else "–"


def _matched_text(one: Finding) -> str:
    if one.matched is None:
        return "too few" if one.claim.metric == "auroc" else "–"
    return f"{one.matched.value:.3f} against {one.matched.before:.3f} (n {one.matched.n})"
