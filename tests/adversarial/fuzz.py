"""``python -m tests.adversarial.fuzz READER|all -runs=N``: atheris mutates valid files towards code not reached yet.

A reader gets bytes and may return or refuse in its own sentence; any other exception ends the process with a traceback
and the offending input in ``crash-…``. The options after the reader's name are libFuzzer's.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vmoer.models.safetensors_check", "pipelines.data", "store.shards"]):
    from pipelines.data import prompt_files as uploads
    from pipelines.data import questions
    from store import shards
    from vmoer.models import safetensors_check as safefile

from pipelines.errors import DataError
from pipelines.settings import Settings
from pipelines.spec.sections import DataSource
from store.errors import StoreError

_RUN = "fuzz.deterministic.none.0"
_SETTINGS = Settings(max_questions=1000, max_upload_prompts=1000)


def safetensors_header(content: bytes, folder: Path) -> None:
    """The check that every weights file goes through before anything is loaded."""
    from safetensors import SafetensorError

    path = folder / "x.safetensors"
    path.write_bytes(content)
    try:
        safefile.check(path)
    except SafetensorError as error:
        _one_sentence(error)


def uploaded(content: bytes, _folder: Path) -> None:
    """Prompts from a file: text, CSV, JSON lines or Parquet, by content."""
    try:
        found = uploads.parse_prompts(content, _SETTINGS)
    except DataError as error:
        _one_sentence(error)
    else:
        assert all(prompt.text.strip() for prompt in found)


def question_file(content: bytes, folder: Path) -> None:
    """A Parquet file of questions."""
    path = folder / "q.parquet"
    path.write_bytes(content)
    try:
        questions.load_questions(DataSource(path=str(path)), settings=_SETTINGS)
    except DataError as error:
        _one_sentence(error)


def shard(content: bytes, folder: Path) -> None:
    """A shard of the store: its footer and its pages."""
    path = folder / "part-0000000000000000.parquet"
    path.write_bytes(content)
    for check in (lambda: shards.check_info(path, "metrics", _RUN), lambda: shards.check_pages(path)):
        try:
            check()
        except StoreError as error:
            _one_sentence(error)


def _one_sentence(error: Exception) -> None:
    if "\n" in str(error):
        raise RuntimeError(f"more than one sentence: {error}")


def seeds() -> list[bytes]:
    """Valid files to begin with, small: most of their bytes mean something."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def parquet(**columns: list[object]) -> bytes:
        sink = io.BytesIO()
        pq.write_table(pa.table(columns), sink, compression="none", use_dictionary=False, write_statistics=False)
        return sink.getvalue()

    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "a": entry}).encode()
    return [
        struct.pack("<Q", len(header)) + header + bytes(8),
        b'{"prompt": "a", "id": "1"}\n"b"\n',
        b'id,prompt\n1,a\n2,"b\nc"\n',
        b"one\r\n\r\ntwo\n",
        b'[{"question": "a", "choices": ["b", "c"], "answer": "A"}]',
        b"question;choices;answer\n1;['b' 'c'];1\n2;[\"b\", \"c\"];0\n",
        parquet(prompt=["a", "b"], id=["1", "2"]),
        parquet(id=["q"], question=["Which?"], choices=[["a", "b"]], answer=[0]),
    ]


READERS: dict[str, Callable[[bytes, Path], None]] = {
    function.__name__: function for function in (safetensors_header, uploaded, question_file, shard)
}


def main() -> None:
    """Fuzz one reader, or all with the same bytes, with libFuzzer's options."""
    chosen = list(READERS.values()) if sys.argv[1] == "all" else [READERS[sys.argv[1]]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, content in enumerate(seeds()):
            (corpus / str(number)).write_bytes(content)

        def read(content: bytes) -> None:
            for reader in chosen:
                reader(content, folder)

        atheris.Setup([sys.argv[0], *sys.argv[2:], str(corpus)], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
