"""``docs/results``, made again from the shipped archives: ``python -m pipelines.thesis.documents``.

One document per archive ``<suite>-<model>-<form>.zip`` and an index with every verdict, disagreements first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipelines.demo import ARCHIVES
from pipelines.settings import Settings, load_settings
from pipelines.thesis.report import VERDICTS, headlines
from pipelines.thesis.reproduce import write_document
from pipelines.thesis.results import Results
from pipelines.thesis.search import duels
from store.archive import read_archives
from store.files import write_text
from store.reader import Store, open_store

INDEX = "README.md"
RESULTS = Path(__file__).parents[2] / "docs" / "results"


def archived() -> list[tuple[str, str, str]]:
    """``(suite, model, form)`` of every shipped archive."""
    found = []
    for path in sorted(ARCHIVES.glob("*.zip")):
        suite, _, rest = path.stem.partition("-")
        model, _, form = rest.rpartition("-")
        found.append((suite, model, form))
    return found


def index(store: Store) -> str:
    """Every verdict of every archive as Markdown, what disagrees with the paper first."""
    rows = sorted(_rows(store), key=lambda row: _place(row[1]))
    lines = [
        "# Results",
        "",
        "Every verdict of every document here, what disagrees with the paper first. `worldfacts-moe` is a toy trained "
        "by this project: it shows mechanisms. Made from `pipelines/archives` by "
        "`python -m pipelines.thesis.documents`, nothing is typed; how it was computed: "
        "[experiments](../experiments.md).",
        "",
        "| claim | verdict | model, form | comparisons |",
        "| --- | --- | --- | --- |",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _rows(store: Store) -> Iterator[list[str]]:
    for suite, model, form in archived():
        results = Results(store, f"{suite}-{form}", model)
        link = f"[{model}, {form}]({suite}-{model}-{form}.md)"
        for claim, word, detail in headlines(results, results.findings(), duels(results)).rows:
            if word != "not computed":
                yield [claim, word, link, detail]


def _place(word: str) -> int:
    """A verdict's place in the index; those of a search come last."""
    return VERDICTS.index(word) if word in VERDICTS else len(VERDICTS)


def write_all(settings: Settings, output: Path) -> list[Path]:
    """Write every document and the index into ``output``; ``settings.home`` is where the archives are unpacked."""
    read_archives(sorted(ARCHIVES.glob("*.zip")), settings.home)
    written = [path for name in archived() for path in write_document(name[0], name[2], name[1], settings, output)]
    with open_store(settings.home) as store:
        write_text(output / INDEX, index(store))
    return [*written, output / INDEX]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for made in write_all(replace(load_settings(), home=Path(folder)), RESULTS):
            print(made)
