"""What every stage needs: the spec, its questions, the data folder, the resident model and what is already stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.questions import Question, QuestionSet, load_all
from pipelines.runs import RunPlan
from pipelines.settings import Settings
from pipelines.spec import Spec
from store import schema
from store.catalog import read_manifest
from store.publish import shard_paths
from store.shards import ROW_GROUP, list_shards
from store.typed import arrow_schema

#: forward passes' worth of tokens in one step
STEP_PASSES = 4


class Context:
    """One experiment in one process; everything it holds is derived, so a restart rebuilds it."""

    def __init__(self, spec: Spec, folders: Sequence[str], settings: Settings) -> None:
        self.spec = spec
        self.folders = tuple(folders)
        self.settings = settings
        #: where what the spec trains is written, instead of the data folder (``vmoer train --output``)
        self.output: Path | None = None
        self._cache: dict[str, Any] = {}
        #: ``report(done, total, message)`` from inside a long step; the engine shows it
        self.report: Callable[[int, int, str], None] = lambda done, total, message: None
        #: ``note(sentence)`` puts a line into the job's log
        self.note: Callable[[str], None] = lambda sentence: None

    @property
    def home(self) -> Path:
        return self.settings.home

    @cached_property
    def sets(self) -> list[QuestionSet]:
        """Every question set, the validation set first."""
        return load_all(self.spec, self.folders, self.settings)

    def questions(self, dataset: str) -> QuestionSet:
        """The question set of that name."""
        return next(item for item in self.sets if item.name == dataset)

    @property
    def in_distribution(self) -> QuestionSet:
        return next(item for item in self.sets if item.role == "in-distribution")

    @property
    def calibration(self) -> QuestionSet:
        """The set for everything that is fitted or chosen: validation when there is one, else in-distribution."""
        return self.sets[0] if self.sets[0].role == "validation" else self.in_distribution

    @cached_property
    def resident(self) -> Any:
        """The model with its tokenizer (:class:`pipelines.models.Resident`), loaded on first use."""
        from pipelines.models import resident

        return resident(self.spec, self.folders, self.settings, self.report)

    def shards(self, run_id: str, name: str) -> list[Path]:
        """The shards of one fact or result table of a run."""
        manifest = read_manifest(self.home, run_id)
        # a sealed run says which shards are its own: compacting leaves replaced ones beside them for a while
        listed = shard_paths(self.home, manifest).get(name, []) if manifest.sealed else None
        return list_shards(self.home, name, run_id) if listed is None else listed

    def parts(self, run_id: str, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of a table of a run, as many rows at a time as a shard holds in one group."""
        typed = {field.name: field for field in arrow_schema(schema.table(name))}
        wanted = pa.schema([typed[column] for column in columns])
        for path in self.shards(run_id, name):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(ROW_GROUP, columns=list(columns)):
                    yield pa.Table.from_batches([batch]).select(list(columns)).cast(wanted)

    def table(self, run_id: str, name: str) -> pa.Table:
        """All rows a run has stored in one fact or result table, sorted by the table's key."""
        spec = schema.table(name)
        parts = [pq.read_table(path, partitioning=None) for path in self.shards(run_id, name)]
        if not parts:
            return arrow_schema(spec).empty_table()
        plain = [part.cast(arrow_schema(spec)) for part in parts]
        return pa.concat_tables(plain).sort_by([(column, "ascending") for column in spec.key])

    def remember(self, key: str, make: Any) -> Any:
        """``make()`` the first time a key is asked for in this process."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def tokens_about(question: Question) -> int:
    """A rough token count of a question with its options (four characters a token), equal on every machine."""
    return 8 + (len(question.question) + sum(map(len, question.choices))) // 4


def chunks(questions: Sequence[Question], budget: int) -> Iterator[tuple[int, int, int]]:
    """``(first, last + 1, tokens)`` of consecutive questions of about ``budget`` tokens; never empty."""
    first = tokens = 0
    for number, question in enumerate(questions):
        cost = tokens_about(question)
        if number > first and tokens + cost > budget:
            yield first, number, tokens
            first, tokens = number, 0
        tokens += cost
    if questions:
        yield first, len(questions), tokens


def steps(questions: Sequence[Question], spec: Spec, passes: int = 1) -> Iterator[tuple[int, int, int]]:
    """``(first, last + 1, tokens)`` of the questions of one step, its forward passes shared by ``passes``."""
    return chunks(questions, max(STEP_PASSES * spec.batch_tokens // passes, 1))


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; ``{}`` for none."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def run_label(run: RunPlan) -> str:
    """What a progress line calls a run."""
    control = "" if run.control == "none" else f" ({run.control})"
    estimator = "" if run.estimator == "none" else f" {run.estimator}"
    return f"{run.model} {run.method}{estimator}{control}"
