"""The documents in ``docs/results`` and their index are what the code makes of the archived runs, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.demo import ARCHIVES
from pipelines.settings import Settings
from pipelines.thesis.cells import spans
from pipelines.thesis.coverage import coverage_section
from pipelines.thesis.documents import INDEX, RESULTS, archived, index
from pipelines.thesis.report import VERDICTS
from pipelines.thesis.reproduce import write_document
from pipelines.thesis.results import Results
from pipelines.thesis.suite import load_suite
from store.archive import MAX_BYTES, read_archives
from store.reader import open_store
from store.verify import verify

#: of a document; what is longer has a page of its own
MAX_LINES = 600


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archived")
    read_archives(sorted(ARCHIVES.glob("*.zip")), folder)
    return folder


def test_archives_are_small_and_sound(home: Path) -> None:
    archives = list(ARCHIVES.glob("*.zip"))
    assert archives
    assert all(path.stat().st_size <= MAX_BYTES for path in archives)
    assert verify(home) == []


@pytest.mark.parametrize(("suite", "model", "form"), archived(), ids="-".join)
def test_document_is_made_by_the_code(suite: str, model: str, form: str, home: Path, tmp_path: Path) -> None:
    made = write_document(suite, form, model, Settings(home=home), tmp_path)
    for path in made:
        assert path.read_text() == (RESULTS / path.name).read_text()
    pages = [path.name for path in made if path.suffix == ".md"]
    stem = f"{suite}-{model}-{form}"
    assert sorted(pages) == sorted(path.name for path in RESULTS.glob(f"{stem}*.md"))
    text = (tmp_path / f"{stem}.md").read_text()
    assert all(f"]({page})" in text for page in pages[1:])
    assert len(text.splitlines()) < MAX_LINES


def test_the_index_is_made_by_the_code(home: Path) -> None:
    with open_store(home) as store:
        text = index(store)
    assert text == (RESULTS / INDEX).read_text()
    words = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ") and "](" in line]
    assert words == sorted(words, key=[*VERDICTS, "found", "not found"].index)


def test_a_document_says_what_was_not_run(home: Path) -> None:
    suite = load_suite("thesis", Settings(home=home))
    with open_store(home) as store:
        complete = coverage_section(Results(store, "thesis-full", "worldfacts-moe"), suite, "full", "worldfacts-moe")
        stopped = coverage_section(Results(store, "thesis-gpu", "smollm2-moe"), suite, "gpu", "smollm2-moe")
    assert complete.rows == []
    assert "the 141 runs that the form declares for worldfacts, 141 are here" in complete.text
    assert stopped.rows[0] == ["main", "arc-easy 20 of 21, obqa 20 of 21"]
    assert "Not run at all on worldfacts." in stopped.text


def test_another_training_of_map_routers_adds_its_own_row_and_no_other() -> None:
    lines = (RESULTS / "thesis-smollm2-moe-laptop.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| sciq") and "map-low-rate" in line]
    assert [row.split(" | ")[1] for row in rows] == [
        "deterministic, MAP routers, adapted, map-low-rate",
        "MAP routers, map-low-rate",
    ]


@pytest.mark.parametrize(
    ("layers", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 3, 7], "0–3, 7"), ([1, 3, 4], "1, 3–4"), ([5, 9], "5, 9")]
)
def test_layers_are_shown_as_spans(layers: list[int], text: str) -> None:
    assert spans(layers) == text


def test_every_document_has_its_archive() -> None:
    stems = tuple("-".join(name) for name in archived())
    assert {*stems} == {path.stem for path in RESULTS.glob("*.tex")}
    assert all(path.name == INDEX or path.stem.startswith(stems) for path in RESULTS.iterdir())
