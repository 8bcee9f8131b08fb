"""The documents in ``docs/results`` and their index are what the code makes of the archived runs, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.reproduce.cells import spans
from pipelines.reproduce.coverage import coverage_section
from pipelines.reproduce.documents import INDEX, RESULTS, archived, index, write_all
from pipelines.reproduce.report import VERDICTS
from pipelines.reproduce.results import Results
from pipelines.reproduce.suite import load_suite
from pipelines.resources import ARCHIVES
from pipelines.settings import Settings
from store.archive import MAX_BYTES, read_archives
from store.reader import open_store
from store.verify import verify

#: of a document; a longer table has a page of its own
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


@pytest.fixture(scope="module")
def full(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every document in full."""
    folder = tmp_path_factory.mktemp("full")
    written = write_all(Settings(home=home), folder, whole=True)
    assert {path.name for path in folder.iterdir()} == {path.name for path in written}
    return folder


@pytest.mark.parametrize("stem", ["-".join(name) for name in archived()])
def test_document_is_made_by_the_code(stem: str, full: Path) -> None:
    text = (full / f"{stem}.md").read_text()
    assert text == (RESULTS / f"{stem}.md").read_text()
    assert len(text.splitlines()) < MAX_LINES
    pages = [path for path in full.glob(f"{stem}-*.md") if f"of its own: `{path.name}`." in text]
    assert text.count("of its own: `") == len(pages)
    parts = (text, *(path.read_text() for path in pages))
    tables = [line for part in parts for line in part.splitlines() if line.startswith("| --- |")]
    assert (full / f"{stem}.tex").read_text().count("\\midrule") == len(tables) > 5


def test_the_index_is_made_by_the_code(home: Path) -> None:
    with open_store(home) as store:
        text = index(store)
    assert text == (RESULTS / INDEX).read_text()
    words = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ") and "](" in line]
    assert words == sorted(words, key=[*VERDICTS, "found", "not found"].index)


def test_a_document_says_what_was_not_run(home: Path) -> None:
    suite = load_suite("thesis", Settings(home=home))
    with open_store(home) as store:
        earlier = coverage_section(Results(store, "thesis-full", "worldfacts-moe"), suite, "full", "worldfacts-moe")
        stopped = coverage_section(Results(store, "thesis-gpu", "smollm2-moe"), suite, "gpu", "smollm2-moe")
    # computed before there were the controls own-mean and prior-covariance
    assert earlier.rows[0] == ["controls", "worldfacts 11 of 14"]
    assert "the 152 runs that the form declares for worldfacts, 141 are here" in earlier.text
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


def test_the_folder_holds_the_documents_and_the_index_alone() -> None:
    assert {path.name for path in RESULTS.iterdir()} == {INDEX, *(f"{'-'.join(name)}.md" for name in archived())}
