"""The built-in question set: what is committed is well-formed, matches its card, and leaks nothing between splits."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.data.worldfacts import DATA_FOLDER, SPLITS, split_path
from tools.worldfacts.sources import name_key

CARD = (DATA_FOLDER.parent / "CARD.md").read_text(encoding="utf-8")
OOD_NAMES = ("country-capital", "element")
MINIMUM = {"pretrain": 12_000, "train": 600, "validation": 400, "test": 800, "near-ood": 600, "far-ood": 600}


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict]]:
    return {name: pq.read_table(split_path(name)).to_pylist() for name in SPLITS}


def test_every_split_has_its_role_and_enough_questions(rows: dict[str, list[dict]]) -> None:
    for name, (_, role) in SPLITS.items():
        assert {row["role"] for row in rows[name]} == {role}
        assert len(rows[name]) >= MINIMUM[name]
    assert sum(len(part) for name, part in rows.items() if name != "pretrain") >= 3000


def test_questions_have_four_different_options_and_clean_text(rows: dict[str, list[dict]]) -> None:
    for part in rows.values():
        for row in part:
            assert len({name_key(choice) for choice in row["choices"]}) == 4
            assert 0 <= row["answer"] <= 3
            assert row["support"] is None
            for text in (row["question"], *row["choices"]):
                assert text == text.strip()
                assert text.isprintable()
            assert row["question"].endswith("?")
            assert row["subject"]
            assert row["source"]


def test_ids_are_unique_and_questions_are_not_repeated(rows: dict[str, list[dict]]) -> None:
    ids = [row["id"] for part in rows.values() for row in part]
    assert len(ids) == len(set(ids))
    for name, part in rows.items():
        asked = Counter((row["question"], frozenset(row["choices"])) for row in part)
        assert max(asked.values()) == 1, name


def test_right_options_stand_in_each_place_equally_often(rows: dict[str, list[dict]]) -> None:
    for part in rows.values():
        counts = Counter(row["answer"] for row in part)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_fact_is_in_two_splits(rows: dict[str, list[dict]]) -> None:
    owner: dict[str, str] = {}
    for name, part in rows.items():
        for row in part:
            assert owner.setdefault(row["fact"], name) == name


def test_no_held_out_name_stands_in_another_split(rows: dict[str, list[dict]]) -> None:
    """Read from the texts, not from `fact`: cities, capitals and elements, whatever their spelling."""
    owner: dict[str, str] = {}
    for name in ("pretrain", "train", "validation", "test"):
        for row in rows[name]:
            if row["subject"] == "city-country":
                assert owner.setdefault(name_key(city_of(row["question"])), name) == name
    near = {subject: [r for r in rows["near-ood"] if r["subject"] == subject] for subject in OOD_NAMES}
    assert all(near.values())
    for row in near["country-capital"]:
        assert not {name_key(choice) for choice in row["choices"]} & owner.keys()
    elements = [row for row in rows["pretrain"] if row["subject"] == "element"]  # "Gold Coast" is another matter
    pretrain = {name_key(choice) for row in elements for choice in row["choices"]}
    pretrain |= {name_key(word) for row in elements for word in row["question"].rstrip("?").split()}
    for row in near["element"]:
        assert not {name_key(choice) for choice in row["choices"]} & pretrain


def city_of(question: str) -> str:
    patterns = (r"In which country is the city of (.+)\?", r"(.+) is a city in which country\?")
    for pattern in (*patterns, r"The city of (.+) lies in which country\?"):
        if found := re.fullmatch(pattern, question):
            return found[1]
    raise AssertionError(f"no wording of city questions fits {question!r}")


def test_ood_options_are_as_long_as_the_in_distribution_ones(rows: dict[str, list[dict]]) -> None:
    """A score that only sees option length would otherwise tell the sets apart."""

    def mean_length(name: str) -> float:
        lengths = [len(choice) for row in rows[name] for choice in row["choices"]]
        return sum(lengths) / len(lengths)

    for name in ("near-ood", "far-ood"):
        assert mean_length(name) == pytest.approx(mean_length("test"), abs=1.0)


def test_card_states_the_size_and_hash_of_every_file(rows: dict[str, list[dict]]) -> None:
    for name, (file_name, role) in SPLITS.items():
        path = split_path(name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        row = f"| `{file_name}` | {name} | {role} | {len(rows[name])} | {path.stat().st_size} | `{digest}` |"
        assert row in CARD
    assert sum(split_path(name).stat().st_size for name in SPLITS) <= 1_500_000
    assert {path.name for path in Path(DATA_FOLDER).iterdir()} == {file for file, _ in SPLITS.values()}


def test_unknown_split_is_refused_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match="near-ood"):
        split_path("ood")
