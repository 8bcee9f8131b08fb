"""What a model reads of each question: one BOS, no more than it can, options that differ, all there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.cli.datasets import question_file
from pipelines.data.option_rules import repeats
from pipelines.data.prompts import letter_prompt
from pipelines.data.questions import load_all, load_questions
from pipelines.errors import DataError
from pipelines.experiment.manifests import begin_run
from pipelines.inspection.compute import inspect
from pipelines.jobs.inspections import parse_request
from pipelines.model.resident import Resident
from pipelines.preparation.setup import prepare_experiment, prepare_run
from pipelines.preparation.train import _encoded
from pipelines.session import model_input
from pipelines.session.batching import encode_batches
from pipelines.session.inputs import Inputs
from pipelines.session.scoring import score
from pipelines.session.session import Session
from pipelines.spec.model import parse_spec
from pipelines.spec.runs import expand
from pipelines.spec.sections import DataSource
from pipelines.stages import Batch, trace
from store.catalog import RunManifest
from tests.harness import agreement
from tests.pipelines.support import settings
from vmoer.testing import tiny_model

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def rows(n: int, **changes: Any) -> list[dict[str, Any]]:
    base = {"choices": ["France", "Norway", "South Africa"], "answer": 1}
    return [{"id": f"q{i}", "question": f"Oslo is a city in which country? ({i})", **base, **changes} for i in range(n)]


def one(identifier: str, **changes: Any) -> dict[str, Any]:
    return {**rows(1, **changes)[0], "id": identifier}


def resident(kind: str = "prepended", template: str | None = None, most: int = 2048) -> Resident:
    tokenizer = agreement.KINDS[kind]()
    tokenizer.chat_template = template
    return Resident(tiny_model(vocab_size=len(tokenizer), max_position_embeddings=most), tokenizer, "tiny")


def session_of(home: Path, file: Path, model: Resident, **more: Any) -> Session:
    values = {"model": "tiny", "methods": ["deterministic"], "data": {"id": {"path": str(file)}}, **more}
    session = Session(Inputs(parse_spec(values), [], settings(home)))
    session.__dict__["resident"] = model
    return session


def begun(session: Session) -> RunManifest:
    """The first run of an experiment, prepared and begun as a worker does it."""
    run = expand(session.spec)[0]
    prepare_experiment(session)
    return begin_run(session, run, prepare_run(session, run))


class TestOneBos:
    @pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.replace("{{ bos_token }}", "")])
    def test_a_rendered_prompt_has_the_special_tokens_of_its_template_everywhere(
        self, tmp_path: Path, template: str
    ) -> None:
        model = resident(template=template)
        session = session_of(tmp_path, write(tmp_path / "own.parquet", rows(2)), model, scoring="letter")
        question = session.inputs.in_distribution.questions[0]
        text = letter_prompt(question.question, question.choices)
        instruction, _, asked = text.partition("\n\n")
        messages = [{"role": "system", "content": instruction}, {"role": "user", "content": asked}]
        right = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert right.count(model.tokenizer.bos_token_id) == ("bos_token" in template)
        assert model_input.tokens_of(session.spec, model, question).prompt == right
        assert encode_batches(session.inputs, model, limit=1)[0]["input_ids"][0].tolist() == right
        table = trace.compute(
            session, expand(session.spec)[0], Batch("own/0", 1, {"dataset": "own", "first": 0, "last": 1})
        )
        assert [int(token) for token in table["tokens"]["token_id"]] == right
        assert session.texts()["own"]["special_tokens"] == "as the chat template writes them"

    def test_letters_behind_a_rendered_prompt_are_scored_as_in_a_plain_loop(self, tmp_path: Path) -> None:
        model = resident(template=TEMPLATE)
        session = session_of(tmp_path, write(tmp_path / "own.parquet", rows(3)), model, scoring="letter")
        question = session.inputs.in_distribution.questions[1]
        text = model_input.prompt_of(session.spec, model.tokenizer, question)
        assert text.startswith("<s>[system]")
        found = score(session, [question])[0].log_likelihood[0]
        for place, letter in enumerate("ABC"):
            ids = model.tokenizer(text + letter, add_special_tokens=False)["input_ids"]
            start = model.tokenizer(text, add_special_tokens=False)["input_ids"]
            first = next(at for at, token in enumerate(ids) if start[at : at + 1] != [token])
            with torch.no_grad():
                log_p = model.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            expected = sum(float(log_p[at - 1, ids[at]]) for at in range(first, len(ids)))
            assert found[place] == pytest.approx(expected, abs=2e-3)

    def test_an_inspected_text_that_writes_its_own_gets_no_second(self, tmp_path: Path) -> None:
        model = resident()
        request = parse_request({"model": "tiny", "prompts": ["<s>Lyon is"]}, settings(tmp_path), any_model=True)
        _, decisions = inspect(model, request, settings(tmp_path), lambda *_: None)
        assert [row["token"] for row in decisions if row["layer"] == 0].count("<s>") == 1


class TestBeyondTheContext:
    def long(self, home: Path, **more: Any) -> Session:
        long = [{**row, "id": f"l{row['id']}", "question": "Lyon " * 40} for row in rows(2)]
        file = write(home / "long.parquet", rows(4) + long)
        return session_of(home, file, resident(most=40), **more)

    def test_long_prompts_are_named_before_a_run_begins(self, tmp_path: Path) -> None:
        session = self.long(tmp_path)
        sentence = (
            r"long.parquet: 2 of 6 texts are longer than the 40 tokens tiny can read \(lq0, lq1; the longest has \d+\)"
            "; shorten them, or leave out their first tokens by `truncate: left` in the spec"
        )
        with pytest.raises(DataError, match=sentence):
            begun(session)
        assert not (tmp_path / "runs").exists()

    def test_cut_prompts_keep_their_end_and_stand_on_the_card(self, tmp_path: Path) -> None:
        session = self.long(tmp_path, truncate="left")
        said: list[str] = []
        session.note = said.append
        manifest = begun(session)
        assert {"cut": 2, "truncate": "left", "most": 40}.items() <= manifest.card["texts"]["long"].items()
        assert any("2 questions without the first tokens of their prompts" in line for line in said)
        question = session.inputs.in_distribution.by_id()["lq0"]
        plain = model_input.tokens_of(session.spec, resident(), question)
        cut = model_input.tokens_of(session.spec, session.resident, question)
        assert cut.longest == 40
        assert cut.answers == plain.answers
        assert cut.prompt == plain.prompt[:1] + plain.prompt[len(plain.prompt) - len(cut.prompt) + 1 :]
        assert score(session, [question])[0].n_tokens.tolist() == [len(a) for a in plain.answers]
        short = session.inputs.in_distribution.by_id()["q0"]
        assert model_input.tokens_of(session.spec, session.resident, short).longest < 40

    def test_prompts_without_answers_are_counted_too(self, tmp_path: Path) -> None:
        (tmp_path / "prompts.txt").write_text("Lyon is\n" + "Lyon " * 60 + "\n")
        more = {"stages": ["trace"], "controls": []}
        session = session_of(tmp_path, tmp_path / "prompts.txt", resident(most=40), **more)
        with pytest.raises(DataError, match="1 of 2 texts are longer than the 40 tokens"):
            session.texts()
        cut = session_of(tmp_path, tmp_path / "prompts.txt", resident(most=40), truncate="left", **more)
        assert [batch["input_ids"].shape[1] for batch in encode_batches(cut.inputs, cut.resident, 2)] == [40]

    def test_training_texts_are_counted_too(self, tmp_path: Path) -> None:
        session = self.long(tmp_path)
        with pytest.raises(DataError, match="2 of 6 texts are longer than the 40 tokens tiny can read"):
            _encoded(session, session.inputs.in_distribution, choice=True)
        cut = self.long(tmp_path, truncate="left")
        assert max(one.longest for one in _encoded(cut, cut.inputs.in_distribution, choice=True)) == 40

    def test_an_inspection_of_a_text_with_what_it_generates_is_refused(self, tmp_path: Path) -> None:
        values = {"model": "tiny", "prompts": ["Lyon is a city"], "new_tokens": 30}
        request = parse_request(values, settings(tmp_path), any_model=True)
        with pytest.raises(DataError, match="tokens, with 30 new ones; tiny can read 24"):
            inspect(resident(most=24), request, settings(tmp_path), lambda *_: None)

    def test_a_spec_that_does_not_say_it_keeps_its_identity(self) -> None:
        values = {"model": "m", "data": {"id": {"path": "x.parquet"}}}
        assert "truncate" not in parse_spec(values).canonical()
        assert parse_spec({**values, "truncate": "left"}).experiment != parse_spec(values).experiment
        assert parse_spec(values).experiment == "a03f3cfb916b183a", "as long as no default changes"


class TestRepeatedOptions:
    def test_they_are_left_out_and_named(self, tmp_path: Path) -> None:
        few = [*rows(19), one("twice", choices=["Peru", "Chad ", " Chad"])]
        file = write(tmp_path / "own.parquet", few)
        found = load_questions(DataSource(path=str(file)))
        assert (found.left_out, len(found.questions)) == (("twice",), 19)
        assert question_file(file)["left_out"] == ["twice"]
        session = session_of(tmp_path, file, resident())
        said: list[str] = []
        session.note = said.append
        assert session.texts()["own"]["left_out"] == ["twice"]
        assert "own.parquet: 1 questions left out: options repeat (twice)" in said

    def test_a_limit_is_filled_with_questions_that_can_be_used(self, tmp_path: Path) -> None:
        few = [*rows(19), one("twice", choices=["Chad", "Chad", "Peru"])]
        source = DataSource(path=str(write(tmp_path / "own.parquet", few)), limit=19)
        assert len(load_questions(source).questions) == 19

    def test_more_than_a_tenth_are_refused(self, tmp_path: Path) -> None:
        file = write(
            tmp_path / "own.parquet",
            [*rows(8), one("twice", choices=["A", "A", "B"])],
        )
        for read in (lambda: load_questions(DataSource(path=str(file))), lambda: question_file(file)):
            with pytest.raises(DataError, match=r"1 of 9 questions have an option twice \(twice\), more than a tenth"):
                read()

    @pytest.mark.parametrize(
        ("choices", "same"),
        [
            (["Chad", "Chad"], True),
            (["Peru", "Chad ", "\tChad"], True),
            (["New  York", "New York"], True),
            (["Sa\u0303o Paulo", "S\u00e3o Paulo"], True),
            (["us", "US"], False),
            (["AB", "A B"], False),
        ],
    )
    def test_equal_is_what_reads_the_same(self, choices: list[str], same: bool) -> None:
        assert repeats(choices) is same

    def test_options_that_only_the_tokenizer_makes_alike_are_counted(self, tmp_path: Path) -> None:
        file = write(
            tmp_path / "own.parquet",
            [*rows(2), one("case", choices=["us", "US", "it"])],
        )
        assert session_of(tmp_path, file, resident("word-pieces")).texts()["own"]["alike"] == 1
        assert session_of(tmp_path, file, resident()).texts()["own"]["alike"] == 0


class TestManyOptions:
    @pytest.mark.parametrize(
        ("n", "scoring"), [(13, "likelihood"), (100, "likelihood"), (13, "letter"), (26, "letter")]
    )
    def test_all_are_scored(self, tmp_path: Path, n: int, scoring: str) -> None:
        file = write(tmp_path / "own.parquet", rows(2, choices=[f"Place {i}" for i in range(n)], answer=n - 1))
        session = session_of(tmp_path, file, resident(), scoring=scoring)
        for scored in score(session, session.inputs.in_distribution.questions):
            assert scored.probabilities().shape == (1, n)
        text = model_input.prompt_of(
            session.spec, session.resident.tokenizer, session.inputs.in_distribution.questions[0]
        )
        assert (f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[min(n, 26) - 1]}. Place {n - 1}" in text) == (scoring == "letter")

    def test_letters_name_26(self, tmp_path: Path) -> None:
        file = write(tmp_path / "own.parquet", rows(1, choices=[f"Place {i}" for i in range(27)]))
        spec = parse_spec({"model": "m", "data": {"id": {"path": str(file)}}, "scoring": "letter"})
        with pytest.raises(
            DataError, match="a question has 27 options, and letter scoring names at most 26; use `scoring"
        ):
            load_all(spec)


def test_joined_options_stand_on_the_card(tmp_path: Path) -> None:
    file = write(tmp_path / "own.parquet", rows(3))
    session = session_of(tmp_path, file, resident("byte-fallback"))
    assert session.texts()["own"]["joined"] == 3
    card = begun(session).card
    assert json.loads(json.dumps(card))["texts"]["own"]["joined"] == 3
    assert session_of(tmp_path, file, resident()).texts()["own"]["joined"] == 0


@pytest.mark.parametrize("scoring", ["likelihood", "letter"])
def test_tokens_of_the_bundled_model_are_those_of_prompt_and_option_apart(tmp_path: Path, scoring: str) -> None:
    """Byte-level BPE never joins the two here, so that results from before stay true."""
    data = {"id": {"name": "worldfacts", "split": "test", "limit": 100}}
    session = Session(
        Inputs(parse_spec({"model": "worldfacts-moe", "data": data, "scoring": scoring}), [], settings(tmp_path))
    )
    tokenizer = session.resident.tokenizer
    for question in session.inputs.in_distribution.questions:
        tokens = model_input.tokens_of(session.spec, session.resident, question)
        texts = model_input.answer_texts(session.spec, tokenizer, question)
        assert tokens.prompt == tokenizer(model_input.prompt_of(session.spec, tokenizer, question))["input_ids"]
        assert tokens.answers == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        assert not tokens.joined
