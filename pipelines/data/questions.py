"""Question sets from Parquet, from the built-in generator or from the hub, checked row by row before any is used.

A file of prompts without answers (:mod:`pipelines.data.prompt_files`) is a question set too, for the stages that ask
nothing.

Order: when ``limit`` is given, the questions with the smallest SHA-256 of their id are kept, and they are used in that
order. So a limit is a random subset that depends on nothing but the ids, and a larger limit contains a smaller one.
``skip`` leaves out the first of that order: questions that a limit of as many has not seen.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.data import worldfacts
from pipelines.data.hub import hub_rows
from pipelines.data.option_rules import check_letters, check_options, refuse_many, repeats
from pipelines.data.prompt_files import parse_prompts
from pipelines.errors import DataError
from pipelines.settings import Settings, load_settings
from pipelines.spec.model import DataSource, Role, Spec, resolve_path
from pipelines.spec.runs import expand
from pipelines.spec.stage_table import UNANSWERED

COLUMNS = ("id", "question", "choices", "answer")
_PARQUET_MAGIC = b"PAR1"


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
    name, shown, rows = _rows(source, folders, settings)
    kept = []
    seen: set[str] = set()
    for where, row in rows:
        question = row if isinstance(row, Question) else _question(row, where, settings.max_prompt_chars)
        if question.id in seen:
            raise DataError(f"{where}: id {question.id[:80]!r} occurs twice; ids must be unique in a question set")
        seen.add(question.id)
        inside = source.tenths is None or source.tenths[0] <= tenth(question.id) < source.tenths[1]
        matches = (source.where or {}).items()
        if inside and all(not isinstance(row, Question) and str(row.get(key)) == value for key, value in matches):
            kept.append(question)
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
        name = ".".join([name, *(_slug(value) for value in source.where.values())])
    normalised = normalise if source.normalise is None else source.normalise
    return QuestionSet(source.label or name, role, shown, tuple(kept), normalised, left_out)


def tenth(identifier: str) -> int:
    """Which tenth a question belongs to, 0 to 9: a split of a set that has none, from the SHA-256 of the id alone."""
    return int.from_bytes(hashlib.sha256(f"split:{identifier}".encode()).digest()[:8], "big") % 10


def _rows(
    source: DataSource, folders: Sequence[str], settings: Settings
) -> tuple[str, str, Iterable[tuple[str, dict[str, Any] | Question]]]:
    """``(name, what to show, rows with their place)`` of a source."""
    if source.name is not None:
        path = _built_in(source.name, str(source.split))
        return str(source.split), f"{source.name}:{source.split}", _parquet(path)
    if source.hub is not None:
        shown = ":".join(part for part in (source.hub, source.config, source.split) if part)
        return _slug(source.hub.rpartition("/")[2]), shown, hub_rows(source)
    path = resolve_path(str(source.path), folders)
    if not os.path.exists(path):  # also for what can be no file name
        raise DataError(f"no question set at {str(source.path)[:200]}; give a Parquet file or a folder of them")
    if not path.is_dir():
        rows = _prompts(path, settings) if _holds_prompts(path) else _parquet(path)
        return _slug(path.stem), path.name, rows
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise DataError(f"the folder {source.path} has no .parquet file")
    return _slug(path.name), path.name, (row for file in files for row in _parquet(file))


def _holds_prompts(path: Path) -> bool:
    """Whether a file is one of prompts without answers: no Parquet, or Parquet with a prompt and no choices."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable(path), path.open("rb") as handle:
        if handle.read(4) != _PARQUET_MAGIC:
            return path.suffix != ".parquet"
        try:
            names = pq.read_schema(path).names
        except (pa.ArrowException, UnicodeDecodeError):
            return False  # reading the rows will say what is wrong
    return "choices" not in names and ("prompt" in names or "text" in names)


def _prompts(path: Path, settings: Settings) -> Iterable[tuple[str, Question]]:
    with _readable(path), path.open("rb") as handle:
        content = handle.read(settings.max_upload_bytes + 1)
    return (
        (f"{path.name} prompt {prompt.id}", Question(prompt.id, prompt.text, (), -1))
        for prompt in parse_prompts(content, settings, path.name)
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {path.name}: {error.strerror or 'damaged file'}") from None


def _built_in(name: str, split: str) -> Path:
    if name != "worldfacts":
        raise DataError(f"no built-in question set {name!r}; there is worldfacts (or give `path` or `hub`)")
    if split not in worldfacts.SPLITS:
        raise DataError(f"worldfacts has no split {split!r}; it has {', '.join(worldfacts.SPLITS)}")
    return Path(worldfacts.split_path(split))


def _parquet(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as handle:
            if handle.read(4) != _PARQUET_MAGIC:
                raise DataError(f"{path.name} is not a Parquet file")
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            missing = [column for column in COLUMNS if column not in names]
            if missing:
                raise DataError(f"{path.name} has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
            wanted = [name for name in (*COLUMNS, "subject", "source") if name in names]
            row = 0
            for batch in file.iter_batches(batch_size=4096, columns=wanted):
                for values in batch.to_pylist():
                    yield f"{path.name} row {row}", values
                    row += 1
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read as Parquet: {str(error).splitlines()[0][:200]}") from None
    except OSError as error:
        raise DataError(f"cannot read {path.name}: {error.strerror or 'damaged file'}") from None


def _question(row: dict[str, Any], where: str, max_chars: int) -> Question:
    identifier, text, given, answer = (row.get(column) for column in COLUMNS)
    if not isinstance(identifier, str) or not identifier or len(identifier) > 500:
        raise DataError(f"{where}: id must be text of 1 to 500 characters")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: question is empty")
    choices = check_options(given, where)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(f"{where}: answer must be a 0-based index below {len(choices)} (found {answer!r})")
    for value in (identifier, text, *choices):
        if len(value) > max_chars:
            raise DataError(f"{where}: a text has {len(value)} characters; at most {max_chars} are allowed")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataError(f"{where}: a text holds a lone surrogate, which is no character") from None
    return Question(identifier, text, choices, answer)


def _slug(text: str) -> str:
    kept = "".join(char if char.isalnum() or char in "._-" else "-" for char in text)
    return kept.strip(".-")[:64] or "questions"
