"""Question sets from files, from the built-in generator or from the hub, checked row by row before any is used.

A file of prompts without answers is a question set too, for the stages that ask nothing.

Order: when ``limit`` is given, the questions with the smallest SHA-256 of their id are kept, and they are used in that
order. So a limit is a random subset that depends on nothing but the ids, and a larger limit contains a smaller one.
``skip`` leaves out the first of that order: questions that a limit of as many has not seen.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.data import worldfacts
from pipelines.data.files import DATA_SUFFIXES, rows_of_file, stem_and_suffix
from pipelines.data.hub import hub_rows
from pipelines.data.option_rules import check_letters, refuse_many, repeats
from pipelines.data.reading import Reading, limits_of_file, read_items
from pipelines.data.rows import Limits
from pipelines.data.shown import what_it_is
from pipelines.errors import DataError
from pipelines.settings import Settings, load_settings
from pipelines.spec.model import Spec, resolve_path
from pipelines.spec.runs import expand
from pipelines.spec.sections import DataSource, Role
from pipelines.spec.stage_table import UNANSWERED


@dataclass(frozen=True)
class Question:
    """One multiple-choice question; ``answer`` is the 0-based index of the right option.

    A prompt without answers has no ``choices`` and ``answer`` −1, and is given to the model as it is.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def answered(self) -> bool:
        """Whether there is a right option."""
        return self.answer >= 0


@dataclass(frozen=True)
class QuestionSet:
    """The questions an experiment uses from one source, in order, with the hash of what they say.

    ``left_out`` are the ids of questions whose options repeat (:mod:`pipelines.data.option_rules`).
    """

    name: str
    role: Role
    source: str
    questions: tuple[Question, ...]
    normalise: bool = True
    left_out: tuple[str, ...] = ()
    #: what each file of the source was recognised as, and what of it is not used
    recognised: tuple[str, ...] = ()

    @property
    def content_sha256(self) -> str:
        """Hash over ids, questions, options and answers, in order."""
        digest = hashlib.sha256()
        for item in self.questions:
            row = json.dumps([item.id, item.question, item.choices, item.answer], ensure_ascii=True)
            digest.update(row.encode() + b"\n")
        return digest.hexdigest()

    def by_id(self) -> dict[str, Question]:
        """Questions by id."""
        return {item.id: item for item in self.questions}


def load_all(spec: Spec, folders: Sequence[str] = (), settings: Settings | None = None) -> list[QuestionSet]:
    """Every question set of the spec in evaluation order; two sets of the same name are refused."""
    sets = [
        load_questions(source, role, folders, settings=settings, normalise=spec.normalise)
        for role, source in spec.data.by_role()
    ]
    asks: list[str] = [stage for stage in spec.stages if stage not in UNANSWERED]
    asks += ["train"] if spec.trains else []
    asks += ["controls"] if any(run.noisy for run in expand(spec)) else []
    for item in sets:
        if asks and not item.questions[0].answered:
            raise DataError(
                f"{item.source} holds prompts without answers, and {asks[0]} needs answers; use `stages: "
                f"[{', '.join(UNANSWERED)}]` and `controls: []`, or give questions with choices"
            )
        if spec.scoring == "letter":
            check_letters((len(question.choices) for question in item.questions), item.source)
    names = [item.name for item in sets]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two question sets are called {name!r}; give one of them another name with `as`")
    return sets


def load_questions(
    source: DataSource,
    role: Role = "in-distribution",
    folders: Sequence[str] = (),
    settings: Settings | None = None,
    normalise: bool = True,
) -> QuestionSet:
    """The checked, filtered and limited questions of one source; the first bad row is refused by file and row."""
    settings = settings or load_settings()
    name, shown, readings = read_source(source, folders, settings)
    kept = []
    recognised = []
    seen = False
    for reading in readings:
        recognised.append(f"{reading.name}: {what_it_is(reading)}")
        for item in reading.accepted():
            seen = True
            inside = source.tenths is None or source.tenths[0] <= tenth(item.id) < source.tenths[1]
            matches = (source.where or {}).items()
            if inside and all(str(getattr(item, key)) == value for key, value in matches):
                kept.append(Question(item.id, item.question, item.choices, item.answer))
    if not kept:
        reason = f"no question matches {source.where}" if source.where and seen else "it has no questions"
        raise DataError(f"{shown}: {reason}")
    left_out = tuple(question.id for question in kept if repeats(question.choices))
    refuse_many(left_out, len(kept), shown)
    kept = [question for question in kept if not repeats(question.choices)]
    if source.limit is not None or source.skip is not None:
        kept = sorted(kept, key=lambda item: hashlib.sha256(item.id.encode()).digest())
        if source.skip is not None and source.skip >= len(kept):
            raise DataError(f"{shown}: it has {len(kept)} questions; `skip: {source.skip}` leaves none")
        kept = kept[source.skip or 0 :][: source.limit]
    if len(kept) > settings.max_questions:
        raise DataError(
            f"{shown}: {len(kept)} questions are more than {settings.max_questions}; set `limit`, "
            "or raise VMOER_MAX_QUESTIONS"
        )
    if source.where and source.label is None:
        name = ".".join([name, *(slug(value) for value in source.where.values())])
    normalised = normalise if source.normalise is None else source.normalise
    return QuestionSet(source.label or name, role, shown, tuple(kept), normalised, left_out, tuple(recognised))


def said_of_files(spec: Spec, folders: Sequence[str], settings: Settings) -> list[str]:
    """Return what each file of people's own was recognised as; nothing of a file that cannot be read."""
    said: list[str] = []
    for role, source in spec.data.by_role():
        if source.path is not None:
            with suppress(DataError):
                said += load_questions(source, role, folders, settings).recognised
    return list(dict.fromkeys(said))


def tenth(identifier: str) -> int:
    """Which tenth a question belongs to, 0 to 9: a split of a set that has none, from the SHA-256 of the id alone."""
    return int.from_bytes(hashlib.sha256(f"split:{identifier}".encode()).digest()[:8], "big") % 10


def read_source(source: DataSource, folders: Sequence[str], settings: Settings) -> tuple[str, str, Iterator[Reading]]:
    """Return ``(name, what to show, what each of its files holds)`` of a source."""
    limits = limits_of_file(settings)
    if source.name is not None:
        path = _built_in(source.name, str(source.split))
        return str(source.split), f"{source.name}:{source.split}", _files([path], settings, limits)
    if source.hub is not None:
        shown = ":".join(part for part in (source.hub, source.config, source.split) if part)
        stem = f"{source.hub}-{source.split or 'test'}"
        rows = hub_rows(source)
        found = read_items(rows, source.hub, settings, limits, lambda number: f"{stem}-{number}")
        return slug(source.hub.rpartition("/")[2]), shown, iter([found])
    path = resolve_path(str(source.path), folders)
    if not os.path.exists(path):  # also for what can be no file name
        raise DataError(f"no question set at {str(source.path)[:200]}; give a file or a folder of files")
    if not path.is_dir():
        return slug(stem_and_suffix(path.name)[0]), path.name, _files([path], settings, limits)
    files = _data_files(path)
    if not files:
        raise DataError(f"the folder {source.path} has no .parquet file, nor one of .json, .jsonl, .csv or .tsv")
    return slug(path.name), path.name, _files(files, settings, limits, many=True)


def _data_files(folder: Path) -> list[Path]:
    """The files of a folder that make one set: its Parquet files, or without any those of other kinds."""
    files = sorted(folder.glob("*.parquet"))
    return files or sorted(path for path in folder.iterdir() if stem_and_suffix(path.name)[1] in DATA_SUFFIXES)


def _files(paths: Sequence[Path], settings: Settings, limits: Limits, many: bool = False) -> Iterator[Reading]:
    """What each file holds; with ``many`` the ids made for files without ids begin with the file's name."""
    seen: set[str] = set()
    for path in paths:
        stem = slug(stem_and_suffix(path.name)[0])
        rows = rows_of_file(path, limits)
        numbered = partial(_numbered, stem) if many else None
        yield _within(read_items(rows, path.name, settings, limits, numbered, seen), path, settings)


def _numbered(stem: str, number: int) -> str:
    return f"{stem}-{number + 1:05d}"


def _within(reading: Reading, path: Path, settings: Settings) -> Reading:
    """The reading itself, unless it is of more prompts than a file may hold."""
    if reading.answered or not reading.items:
        return reading
    size = path.stat().st_size
    if size > settings.max_upload_bytes:
        raise DataError(f"{path.name} has {size:,} bytes; at most {settings.max_upload_bytes:,} are allowed")
    if len(reading.items) > settings.max_upload_prompts:
        most = f"{settings.max_upload_prompts:,}"
        raise DataError(f"{path.name} has more than {most} prompts, the most that are allowed")
    return reading


def _built_in(name: str, split: str) -> Path:
    if name != "worldfacts":
        raise DataError(f"no built-in question set {name!r}; there is worldfacts (or give `path` or `hub`)")
    if split not in worldfacts.SPLITS:
        raise DataError(f"worldfacts has no split {split!r}; it has {', '.join(worldfacts.SPLITS)}")
    return Path(worldfacts.split_path(split))


def slug(text: str) -> str:
    """Return a text with nothing in it but letters, digits, dots, underscores and hyphens."""
    kept = "".join(char if char.isalnum() or char in "._-" else "-" for char in text)
    return kept.strip(".-")[:64] or "questions"
