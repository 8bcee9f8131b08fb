"""Hostile text and private values: what is shown, exported and logged stays text and keeps this machine to itself."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.downloads import files as exports
from app.pages import path_of
from app.shared.text import plain
from app.shared.token_strip import strip_html, visible
from pipelines.console import clean
from pipelines.data.checks import check_prompt
from pipelines.data.prompt_files import parse_prompts
from pipelines.errors import DataError
from pipelines.settings import Settings
from pipelines.spec.model import parse_spec
from store import layout
from store.catalog import read_manifest, write_manifest
from store.export import FORMATS
from store.publish import publish
from store.redact import redact, redacted
from tests.adversarial.conftest import Vmoer
from tests.app.opening import app_at
from tests.store.factory import run_id
from vmoer.models.catalog import available_models

DET = run_id("deterministic")
ACTIVE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "![x](http://evil.example/x.png)",
    "[x](javascript:alert(1))", ":material/home:", ":red[x]", "$x$", "`x`",
    "# x", "- x", "<b>", "&lt;", "=1+1", "\x1b[31mred", "‮x", "a\nb", "|a|b|",
]  # fmt: skip
FORMULAS = [
    "=1+1",
    "+1",
    "-1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "''=1",
    '=HYPERLINK("http://evil")',
]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_a_download_is_a_formula_and_numbers_stay_numbers(text: str) -> None:
    frame = pd.DataFrame({"name": [text, f'a"{text}', f"a,{text}", f"a;{text}"], "value": [-1.5, -2.0, -1e-300, 0.0]})
    rows = list(csv.reader(io.StringIO(exports.csv_bytes(frame).decode(), newline="")))[1:]
    for (cell, value), name, number in zip(rows, frame["name"], frame["value"], strict=True):
        assert not re.match(r"[=+\-@\t\r\n]", cell)
        assert float(value) == number
        restored = cell[1:] if cell.startswith("'") else cell
        assert restored == name


@pytest.mark.parametrize(
    "text", [r"\input{/etc/passwd}", r"\write18{id}", "50 % & $x_1$ #1 ~ ^ {}", "a\n\\end{tabular}", "\\"]
)
def test_no_latex_command_survives_in_a_download(text: str) -> None:
    table = exports.latex_bytes(pd.DataFrame({text: [text], "n": [-1.5]}), {"card": text}, text).decode()
    shown = "\n".join(line for line in table.splitlines() if not line.startswith("%"))
    commands = set(re.findall(r"\\([A-Za-z]+)", shown))
    assert commands <= {
        "begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule",
        "textbackslash", "textasciitilde", "textasciicircum",
    }  # fmt: skip
    assert shown.count("\\end{tabular}") == 1
    assert re.search(r"& -1\.5 \\\\", shown)


def test_json_of_missing_and_impossible_numbers_is_strict() -> None:
    frame = pd.DataFrame({"x": [np.nan, 1.0], "y": [None, "a"], "z": [[1.0, np.nan], None]})
    loaded = json.loads(exports.json_bytes(frame, {}), parse_constant=lambda name: pytest.fail(name))
    assert loaded["rows"][0] == {"x": None, "y": None, "z": [1.0, None]}


@given(st.text(max_size=60))
def test_any_text_in_markdown_html_and_terminal_is_only_text(text: str) -> None:
    shown = plain(text)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)[<>*_`\[\]$#:|&]", shown)
    body = strip_html([visible(text)], [0.5], [text], None)
    assert re.sub(r"<(/?(div|span)[^<>]*)>", "", body).count("<") == 0
    assert clean(text).isprintable() or set(clean(text)) <= {" ", "\xa0"} | set(clean(text)) - set("\x1b\x07\n\r\u202e")


@pytest.mark.parametrize("page", ["overview", "calibration"])
def test_hostile_names_and_errors_reach_a_page_as_text_only(
    published: Path, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names come from specs of others, for instance through an archive; every Markdown on the page is looked at."""
    hostile = " ".join(ACTIVE[:9])
    for one in (DET, run_id("fcvr")):
        manifest = read_manifest(published, one)
        changed = replace(
            manifest, name=hostile, status="failed", error=hostile, model={**manifest.model, "model": hostile}
        )
        write_manifest(published, changed)
    publish(published)
    monkeypatch.setenv("VMOER_HOME", str(published))
    app = app_at(page)
    app.session_state["vmoer.drawn"] = path_of(page)  # what follows the first chart too
    app.run()
    assert not app.exception
    kinds = ("title", "markdown", "caption", "error", "warning", "info", "subheader")
    said = "\n".join(str(element.value) for kind in kinds for element in getattr(app, kind))
    assert "alert" in said, "the hostile name is on the page"
    for active in ("<script", "<img", "](http", "](javascript", ":red[x]"):
        for found in re.finditer(re.escape(active), said):
            assert said[found.start() - 1] == "\\" or "\\" in found.group(), said[
                max(0, found.start() - 40) : found.end()
            ]
    for frame in app.get("html"):
        assert "<script" not in str(frame)


def test_charts_take_no_address_and_no_expression_from_data() -> None:
    from tests.contract.source import ROOT, python_files

    for path in python_files("app"):
        text = path.read_text(encoding="utf-8")
        text = text.replace('<link rel="modulepreload" crossorigin href="./static/js/', "")  # Streamlit's own scripts
        assert not re.search(r"\bhref\s*=|alt\.Href|alt\.Url|mark_image", text), path.relative_to(ROOT)


@settings(max_examples=200)
@given(
    st.text(st.characters(), max_size=200)
    | st.sampled_from(["\ud800", "\0", "x" * 10**6, "😀" * 100, "‮אב", " ", "\ufeff", "é"])
)
def test_a_prompt_is_itself_or_refused_in_a_sentence(text: str) -> None:
    limits = Settings()
    possible = bool(text.strip()) and "\0" not in text and len(text) <= limits.max_prompt_chars
    possible = possible and not re.search("[\ud800-\udfff]", text)
    try:
        kept = check_prompt(text, limits)
    except DataError as error:
        kept = "" if str(error).isprintable() else "not one line"
    assert kept == (text if possible else "")


@settings(max_examples=200)
@given(
    st.binary(max_size=400)
    | st.sampled_from([b"PK\x03\x04", b"\x80\x04.", b"PAR1", b"\xef\xbb\xbfa", b"a\r\nb", b"[" * 10**5])
)
def test_uploaded_bytes_are_prompts_or_one_sentence(content: bytes) -> None:
    try:
        prompts = parse_prompts(content, Settings())
    except DataError as error:
        prompts = [] if "\n" not in str(error) else None
    assert prompts is not None
    assert all(prompt.text.strip() for prompt in prompts)


def test_any_text_as_a_prompt_goes_through_the_model(vmoer: Vmoer) -> None:
    """Emoji, right to left, combining marks, a million characters: routed or refused; never a traceback."""
    for text in ("😀 e\u0301 ‮אב\u200d", "<|endoftext|>", " . "):
        done = vmoer("inspect", text, "--device", "cpu", "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)
    for text in ("x" * 10**6, "a\0b", "\ud800", "", "   "):
        done = vmoer("inspect", text, "--device", "cpu")
        assert done.code == 2, (text[:10], done)
        assert done.sentence.startswith("vmoer: ")


SECRETS = {
    "HF_TOKEN": "hf_planted0token0value", "AWS_SECRET_ACCESS_KEY": "planted/secret+key",
    "MY_API_KEY": "planted-api-key", "DB_PASSWORD": "planted-password",
}  # fmt: skip
USER = "planted-user-name"


def test_redaction_takes_secrets_passwords_and_the_home_folder_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", f"/home/vmoer/{USER}")
    for name, value in {**SECRETS, "EMPTY_TOKEN": "", "SHORT_TOKEN": "abc"}.items():
        monkeypatch.setenv(name, value)
    text = f"token hf_planted0token0value at /home/vmoer/{USER}/x in postgresql://me:hunter22@db/x, abc"
    assert redact(text) == "token *** at ~/x in postgresql://me:***@db/x, abc"
    assert redact(f"/home/vmoer/{USER}2/x") == f"/home/vmoer/{USER}2/x"
    assert redacted({"a": [f"/home/vmoer/{USER}", 3, None]}) == {"a": ["~", 3, None]}


def test_no_secret_home_or_user_is_in_anything_a_run_leaves(
    vmoer: Vmoer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose model lies in the home folder, and one that fails there; then manifests, logs, store and exports."""
    home = tmp_path / USER
    home.mkdir()
    bundled = next(info.folder for info in available_models() if info.name == "worldfacts-moe")
    shutil.copytree(bundled, home / "model")
    for name, value in {**SECRETS, "HOME": str(home), "USER": USER, "LOGNAME": USER}.items():
        monkeypatch.setenv(name, value)
    data = {"id": {"name": "worldfacts", "split": "test", "limit": 2}}
    fine = {
        "model": str(home / "model"),
        "data": data,
        "stages": ["evaluate", "trace"],
        "bootstrap": 100,
        "store_text": True,
    }
    broken = {**fine, "model": str(home / "hf_planted0token0value")}
    for values, code in ((fine, 0), (broken, 3)):
        (home / "spec.yaml").write_text(yaml.safe_dump(values))
        assert vmoer("run", str(home / "spec.yaml"), "--device", "cpu").code == code
    (run,) = [one for one in json.loads(vmoer("runs", "--json").out) if one["status"] == "finished"]
    for format_ in FORMATS:
        output = folder / f"export.{format_}"
        assert vmoer("export", run["run_id"], "predictions", "--format", format_, "--output", str(output)).code == 0
    private = [value.encode() for value in (*SECRETS.values(), str(home), USER)]
    kept = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("jobs.sqlite")]
    assert {"runs", "logs", "generations", "facts"} <= {path.relative_to(folder).parts[0] for path in kept}
    for path in kept:
        content = path.read_bytes()
        for secret in private:
            assert secret not in content, f"{secret!r} in {path.relative_to(folder)}"
    assert "~/model" in (layout.manifest_path(folder, run["run_id"])).read_text()
    shown = json.loads(vmoer("jobs", "list", "--json").out)
    assert not any(secret.decode() in json.dumps(job["message"]) for job in shown for secret in private)
    assert parse_spec(fine).model == str(home / "model")


def test_the_environment_is_never_dumped() -> None:
    """Nothing stores or logs the environment as a whole."""
    from tests.contract.source import calls, name, python_files

    for path in python_files("vmoer", "store", "pipelines", "app"):
        for _, called in calls(path):
            assert called not in ("getpass.getuser", "os.getlogin", "dict(os.environ)"), name(path)
    assert os.environ
