"""Makes `docs/results` from the shipped archives, or with FOLDER every document in full.

One document per archive `<suite>-<model>-<form>.zip` and an index with every verdict, disagreements first.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipelines.reproduce.report import VERDICTS, headlines
from pipelines.reproduce.reproduce import document
from pipelines.reproduce.results import Results
from pipelines.reproduce.search import duels
from pipelines.resources import ARCHIVES, RESULTS
from pipelines.settings import Settings, load_settings
from store.archive import read_archives
from store.files import write_text
from store.reader import Store, open_store

INDEX = "README.md"


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
        "`python -m pipelines.reproduce.documents`, nothing is typed; how it was computed: "
        "[experiments](../experiments.md). `python -m pipelines.reproduce.documents FOLDER` also writes the pages "
        "of long tables and every table as LaTeX.",
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


def write_all(settings: Settings, output: Path, whole: bool) -> list[Path]:
    """Write every document and the index into ``output``, and if ``whole`` the long tables and LaTeX.

    The archives are unpacked into ``settings.home``.
    """
    read_archives(sorted(ARCHIVES.glob("*.zip")), settings.home)
    texts: dict[str, str] = {}
    for suite, model, form in archived():
        made = document(suite, form, model, settings)
        texts |= made if whole else {name: text for name, text in made.items() if name == f"{suite}-{model}-{form}.md"}
    with open_store(settings.home) as store:
        texts[INDEX] = index(store)
    output.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(output / name, text)
    return [output / name for name in texts]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pipelines.reproduce.documents", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="write all documents here, long tables and LaTeX too")
    target = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as folder:
        here = replace(load_settings(), home=Path(folder))
        for path in write_all(here, target or RESULTS, whole=target is not None):
            print(path)
