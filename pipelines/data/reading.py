"""From rows to questions: which layout a file has, each row checked, and word of everything that was left out."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from pipelines.data.answers import Given, decide, is_missing, place_of, rule
from pipelines.data.checks import check_prompt, check_question
from pipelines.data.layouts import layout_of
from pipelines.data.layouts.base import Draft, Layout, RowError, first_of
from pipelines.data.rows import Limits, Row, Rows
from pipelines.errors import DataError
from pipelines.settings import Settings

_TAGS = ("subject", "source")
#: columns that mean nothing to a question and need no word
_NO_WORD = frozenset({"", "unnamed:_0", "index", "__index_level_0__"})


@dataclass(frozen=True, slots=True)
class Item:
    """One row as it will be used; ``answer`` is 0-based, −1 for a prompt, which has no ``choices``."""

    place: str
    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that cannot be used: where it stands, the column at fault, and the whole sentence."""

    place: str
    column: str
    sentence: str


Drafted = tuple[str, Row, Draft | Refusal]


@dataclass(frozen=True)
class Reading:
    """What a file was recognised as. ``answers`` says how the answers were meant, ``unused`` names columns left out."""

    name: str
    kind: str
    layout: str
    items: tuple[Item, ...]
    refused: tuple[Refusal, ...] = ()
    unused: tuple[str, ...] = ()
    answers: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def answered(self) -> bool:
        """Whether the file holds questions with options rather than prompts."""
        return bool(self.answers)

    def accepted(self) -> tuple[Item, ...]:
        """Return the items of a file in which no row was refused; else :class:`DataError` names the first."""
        if self.refused:
            more = len(self.refused) - 1
            rest = f" (and {more:,} more: `vmoer datasets FILE` lists them)" if more else ""
            raise DataError(f"{self.refused[0].sentence}{rest}")
        return self.items


def limits_of_upload(settings: Settings) -> Limits:
    """Return how much of a stranger's file is read."""
    return Limits(settings.max_upload_bytes, 8 * settings.max_upload_bytes, settings.max_upload_prompts)


def limits_of_file(settings: Settings) -> Limits:
    """Return how much of a file on this machine is read; Parquet is read row by row, whatever its size."""
    return Limits(settings.max_file_bytes, settings.max_file_bytes, None)


def read_items(
    rows: Rows,
    name: str,
    settings: Settings,
    limits: Limits,
    fallback_id: Callable[[int], str] | None = None,
    seen: set[str] | None = None,
) -> Reading:
    """Return the questions or prompts in ``rows``; ``fallback_id`` names row n (from 0) of a file without ids.

    An id that stands in ``seen`` is refused, and new ones are added. :class:`DataError` when the layout is not known or
    the limits are passed; a row that is wrong becomes a :class:`Refusal`.
    """
    columns = frozenset(rows.columns)
    layout = layout_of(columns)
    if layout is None and not columns:
        return Reading(name, rows.kind, "empty", ())
    if layout is None:
        shown = ", ".join(repr(column[:40]) for column in rows.columns[:8])
        raise DataError(
            f"{name} has no column 'prompt', 'question' or 'text' with what belongs to it (found {shown}); "
            "docs/data.md has the layouts"
        )
    used = {*layout.uses(columns), *layout.ids, *layout.subject, *_TAGS} & columns
    unused = tuple(column for column in rows.columns if column not in used and column not in _NO_WORD)
    wanted = [column for column in rows.columns if column in used]
    drafts = _drafts(rows.read(wanted), layout, name, settings, limits)
    makes_ids = first_of(layout.ids, columns) is None
    fallback = fallback_id or (lambda number: f"{'q' if layout.readings else 'p'}{number + 1:05d}")
    if not layout.readings:
        found = _prompts(drafts, layout, settings, fallback)
        answers = ""
    else:
        answers = _decided(drafts, layout, columns, name)
        found = _questions(drafts, layout, columns, answers, settings, fallback if makes_ids else None, fallback_id)
    seen = set() if seen is None else seen
    items: list[Item] = []
    refused: list[Refusal] = []
    for one in found:
        if isinstance(one, Refusal):
            refused.append(one)
        elif one.id in seen:
            sentence = f"{one.place}: id {one.id[:80]!r} occurs twice; ids must be unique in a question set"
            refused.append(Refusal(one.place, "id", sentence))
        else:
            seen.add(one.id)
            items.append(one)
    return Reading(
        name,
        rows.kind,
        "a prompt a line" if rows.lines else layout.name,
        tuple(items),
        tuple(refused),
        unused,
        answers,
        _notes(items),
    )


def _drafts(
    found: Iterator[tuple[str, Row]], layout: Layout, name: str, settings: Settings, limits: Limits
) -> list[Drafted]:
    """Each row with what is needed of it; texts that are too long go at once, so that memory stays bounded."""
    drafts: list[Drafted] = []
    room = limits.unpacked
    for place, row in found:
        if limits.rows is not None and len(drafts) == limits.rows:
            raise DataError(f"{name} has more than {limits.rows:,} prompts, the most that are allowed")
        kept = {key: row[key] for key in (*layout.ids, *layout.subject, *_TAGS) if key in row}
        draft: Draft | Refusal
        try:
            draft = _trimmed(layout.read(row))
        except RowError as error:
            draft = Refusal(place, error.column, f"{place}: {error}")
        else:
            options = draft.choices if isinstance(draft.choices, list) else []
            texts = [text for text in (draft.question, *options, *kept.values()) if isinstance(text, str)]
            longest = max((len(text) for text in texts), default=0)
            if longest > settings.max_prompt_chars:
                shown = f"{longest:,} characters; at most {settings.max_prompt_chars:,} are allowed"
                draft = Refusal(place, "text", f"{place} has {shown}")
                kept = {}
            room -= sum(map(sys.getsizeof, texts))
        if room < 0 and limits.rows is not None:
            raise DataError(f"{name} expands to more than {limits.unpacked:,} bytes, the most that are allowed")
        drafts.append((place, kept, draft))
    return drafts


def _prompts(
    drafts: list[Drafted], layout: Layout, settings: Settings, fallback: Callable[[int], str]
) -> Iterator[Item | Refusal]:
    for number, (place, row, draft) in enumerate(drafts):
        if isinstance(draft, Refusal):
            yield draft
            continue
        try:
            given = row.get("id")
            identifier = fallback(number) if is_missing(given) else _identifier(given, place)
            if not identifier.isprintable() or len(identifier) > 500:
                raise DataError(f"{place}: id must be one line of at most 500 printable characters")
            text = check_prompt(draft.question, settings, place)
        except DataError as error:
            yield Refusal(place, "id" if ": id" in str(error) else "prompt", str(error))
        else:
            yield Item(place, identifier, text, (), -1, *_tags(row, layout))


def _identifier(given: object, place: str) -> str:
    """A row's own id as text; what has no one way to be written is refused."""
    if isinstance(given, str):
        return given
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise DataError(f"{place}: id must be text or a number")
    return str(given)


def _tags(row: Row, layout: Layout) -> tuple[str | None, str | None]:
    subject = first_of(layout.subject, row)
    values = (row[subject] if subject else None, row.get("source"))
    return tuple(None if value is None else str(value) for value in values)  # type: ignore[return-value]


def _trimmed(draft: Draft) -> Draft:
    """Return a question with the spaces around its texts removed: they would be scored with them. Prompts stay."""
    if not isinstance(draft.choices, list):
        return draft
    question, *options = (text.strip() if isinstance(text, str) else text for text in (draft.question, *draft.choices))
    return replace(draft, question=question, choices=options)


def _given(draft: Draft) -> Given:
    options = draft.choices if isinstance(draft.choices, list) else []
    return Given(draft.answer, tuple(option if isinstance(option, str) else "" for option in options), draft.labels)


def _decided(drafts: list[Drafted], layout: Layout, columns: frozenset[str], name: str) -> str:
    """How the file's answers are meant."""
    given = [_given(draft) for _, _, draft in drafts if isinstance(draft, Draft)]
    readings = layout.readings
    if len(readings) > 1 and any(one.labels for one in given):
        readings = ("labels", *readings)
    return decide(layout.answer(columns), given, readings, name)


def _questions(
    drafts: list[Drafted],
    layout: Layout,
    columns: frozenset[str],
    reading: str,
    settings: Settings,
    made_id: Callable[[int], str] | None,
    instead: Callable[[int], str] | None,
) -> Iterator[Item | Refusal]:
    """Each question or its refusal; ``made_id`` is for files without ids, ``instead`` for rows whose id is empty."""
    column = layout.answer(columns)
    for number, (place, row, draft) in enumerate(drafts):
        if isinstance(draft, Refusal):
            yield draft
            continue
        try:
            given_id = row.get(first_of(layout.ids, row) or "id")
            if made_id is not None or (instead is not None and is_missing(given_id)):
                identifier = (made_id or instead or str)(number)
            else:
                identifier = "" if given_id is None else _identifier(given_id, place)
        except DataError as error:
            yield Refusal(place, "id", str(error))
            continue
        wrong = check_question(identifier, draft.question, draft.choices, settings.max_prompt_chars)
        given = _given(draft)
        answer = place_of(given, reading)
        if wrong is None and answer is None:
            wrong = (column, f"{column} {rule(given, reading)} (found {str(repr(given.value))[:60]})")
        if wrong is not None or answer is None:
            at_fault, sentence = wrong or (column, "")
            yield Refusal(place, at_fault, f"{place}: {sentence}")
        else:
            yield Item(place, identifier, str(draft.question), given.options, answer, *_tags(row, layout))


def _notes(items: list[Item]) -> tuple[str, ...]:
    """What is odd about questions that are each right."""
    answered = [item for item in items if item.choices]
    if len(answered) >= 5 and len({item.answer for item in answered}) == 1:
        place = answered[0].answer + 1
        return (
            f"the right option is number {place} in every question: letters would measure the place of an option, "
            "so use `scoring: likelihood`",
        )
    if len(answered) >= 20 and all(item.answer > 0 for item in answered):
        return ("the first option is never right: if the numbers count from 1, give letters instead",)
    return ()
