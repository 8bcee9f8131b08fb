# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Export tables as files that other programs read, streamed and written atomically."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from store import engine, files, layout, schema, shards
from store.errors import CorruptShardError, NotFoundError
from store.reader import Store, connect_generation

FORMATS = ("csv", "parquet", "json", "latex", "duckdb")

# A spreadsheet takes a cell that begins so for a formula. One more apostrophe goes in front, also
# where there already are some: removing one restores the text.
FORMULA = r"^'*[=+\-@\t\r\n]"
#: without it Excel takes UTF-8 for the code page of its country
_BYTE_ORDER_MARK = "\ufeff"
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\n": " ",
        "\r": " ",
        "\t": " ",
    }
)


def export_table(
    store: Store,
    run_id: str | Sequence[str] | None,
    table: str | None,
    format: str,
    output: str | Path,
    card: bool = False,
) -> Path:
    """Write ``table`` of the given runs (None: of all) to a file and return its path; an older file is replaced.

    ``csv``: UTF-8 with the mark by which Excel knows it, lists as JSON text; text that a spreadsheet would run as a
    formula gets an apostrophe in front.
    ``parquet``: the schema's types. ``json``: ``{"card": …, "rows": […]}``. ``latex``: a booktabs table, numbers with
    four significant digits. ``duckdb``: one database with every table (or only ``table``), facts included.
    The reproducibility card goes into the file's metadata; ``card`` also writes it beside, as ``<output>.card.json``.
    """
    if format not in FORMATS:
        raise NotFoundError(f"there is no export format {format!r}; there are {', '.join(FORMATS)}")
    if table is None and format != "duckdb":
        raise NotFoundError(f"name the table to export as {format}; there are {', '.join(schema.TABLES)}")
    chosen = [layout.check_table(table)] if table is not None else list(schema.tables())
    runs = _known_runs(store, run_id)
    for one in chosen:
        _check_sealed(store, one, runs)
    provenance = make_card(store, runs, table)
    target = Path(output)
    files.remove_stale(target)
    with files.replacing(target) as temporary:
        _WRITERS[format](store, chosen, runs, provenance, temporary)
    if card:
        text = json.dumps(provenance, indent=1, ensure_ascii=False)
        files.write_text(target.with_name(f"{target.name}.card.json"), text + "\n")
    return target


def make_card(store: Store, runs: Sequence[str], table: str | None) -> dict[str, Any]:
    """Return the provenance of an export: what it holds, from which generation, and each run's card."""
    found = store.query(
        "SELECT run_id, experiment, model, method, estimator, control, status, synthetic, manifest FROM runs "
        "WHERE list_contains($runs::VARCHAR[], run_id) ORDER BY run_id",
        {"runs": list(runs)},
    )
    cards = [{**row, "card": json.loads(row.pop("manifest"))} for row in found.to_dict("records")]
    described = {
        one.name: {"row": one.row, "columns": {column.name: column.meaning for column in one.columns}}
        for one in schema.tables()
        if table in (None, one.name)
    }
    return {
        "generator": "vmoer",
        "schema_version": schema.SCHEMA_VERSION,
        "generation": store.generation,
        "synthetic": any(card["synthetic"] for card in cards),
        "runs": cards,
        "tables": described,
    }


def _known_runs(store: Store, run_id: str | Sequence[str] | None) -> list[str]:
    known = store.query("SELECT run_id FROM runs ORDER BY run_id")["run_id"].tolist()
    wanted = known if run_id is None else [run_id] if isinstance(run_id, str) else list(run_id)
    for one in wanted:
        layout.check_run_id(one)
        if one not in known:
            raise NotFoundError(f"there is no run {one!r} in {store.home}: `vmoer runs` lists those there are")
    return wanted


def _check_sealed(store: Store, table: schema.Table, runs: Sequence[str]) -> None:
    """Refuse to export a shard whose bytes are not those that were sealed: Parquet alone shows only some flips."""
    if table.kind != "fact":
        return
    for run_id in runs:
        for path, sealed in store.shards(table.name, run_id).items():
            shards.check_info(path, table.name, run_id)
            if sealed is not None and files.sha256(path) != sealed:
                raise CorruptShardError(shards.changed(path))


def _source(store: Store, table: schema.Table, runs: Sequence[str]) -> str:
    """SQL for the table's rows of the runs bound as ``$runs``; facts stay in the order of their shards."""
    if table.kind == "fact":
        return f"{store.facts(table.name, runs)} WHERE list_contains($runs::VARCHAR[], run_id)"
    column = {"models": "model", "datasets": "experiment"}.get(table.name, "run_id")
    of_runs = f"SELECT {column} FROM runs WHERE list_contains($runs::VARCHAR[], run_id)"
    return f'"{table.name}" WHERE {column} IN ({of_runs}) ORDER BY {engine.names(table.key)}'


@contextmanager
def _unlocked(store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    """The store's generation on a connection of its own that may write the output file.

    One thread: several would keep finished parts in memory until those before them are written.
    """
    connection = connect_generation(store.home, store.generation, engine.MEMORY_LIMIT, threads=1, locked=False)
    try:
        yield connection
    finally:
        connection.close()


def _run(store: Store, connection: duckdb.DuckDBPyConnection, sql: str, runs: Sequence[str] | None = None) -> None:
    try:
        connection.execute(sql, None if runs is None else {"runs": list(runs)})
    except duckdb.Error as error:
        raise files.cannot_write("the export", error) or store.explain(sql, error) from error


def _copy(store: Store, table: schema.Table, runs: Sequence[str], columns: str, target: Path, options: str) -> None:
    with _unlocked(store) as connection:
        source = _source(store, table, runs)
        _run(
            store,
            connection,
            f"COPY (SELECT {columns} FROM {source}) TO {engine.literal(str(target))} ({options})",
            runs,
        )


def _write_csv(store: Store, tables: list[schema.Table], runs: list[str], card: dict[str, Any], path: Path) -> None:
    def cell(column: schema.Column, shown: str) -> str:
        if column.type.endswith("[]"):
            return f'to_json("{column.name}")::VARCHAR AS "{shown}"'
        if column.type == "VARCHAR":
            risky = f'regexp_matches("{column.name}", {engine.literal(FORMULA)})'
            return f'CASE WHEN {risky} THEN chr(39) || "{column.name}" ELSE "{column.name}" END AS "{shown}"'
        return f'"{column.name}" AS "{shown}"'

    # the mark goes in with the first column's name, with which the file begins
    shown = [column.name for column in tables[0].columns]
    shown[0] = _BYTE_ORDER_MARK + shown[0]
    columns = ", ".join(map(cell, tables[0].columns, shown))
    _copy(store, tables[0], runs, columns, path, "FORMAT csv, HEADER")


def _write_parquet(store: Store, tables: list[schema.Table], runs: list[str], card: dict[str, Any], path: Path) -> None:
    text = engine.literal(json.dumps(card, ensure_ascii=False))
    options = f"FORMAT parquet, COMPRESSION zstd, KV_METADATA {{'vmoer.card': {text}}}"
    _copy(store, tables[0], runs, engine.names(tables[0].column_names), path, options)


def _write_json(store: Store, tables: list[schema.Table], runs: list[str], card: dict[str, Any], path: Path) -> None:
    rows = path.with_name(f"{path.name}.rows{files.TEMPORARY_SUFFIX}")
    try:
        _copy(store, tables[0], runs, engine.names(tables[0].column_names), rows, "FORMAT json, ARRAY true")
        with path.open("wb") as out, rows.open("rb") as source:
            out.write(b'{"card": ' + json.dumps(card, ensure_ascii=False).encode() + b',\n"rows": ')
            shutil.copyfileobj(source, out)
            out.write(b"}\n")
    finally:
        rows.unlink(missing_ok=True)


def _write_latex(store: Store, tables: list[schema.Table], runs: list[str], card: dict[str, Any], path: Path) -> None:
    table = tables[0]
    alignment = "".join("l" if column.type in ("VARCHAR", "BOOLEAN") else "r" for column in table.columns)
    sql = f"SELECT {engine.names(table.column_names)} FROM {_source(store, table, runs)}"
    cursor = store.cursor()
    try:
        with path.open("w", encoding="utf-8") as out:
            out.write(f"% card: {json.dumps(card)}\n% needs \\usepackage{{booktabs}}\n")
            out.write(f"\\begin{{tabular}}{{{alignment}}}\n\\toprule\n")
            out.write(" & ".join(_latex(name) for name in table.column_names) + " \\\\\n\\midrule\n")
            cursor.execute(sql, {"runs": list(runs)})
            while rows := cursor.fetchmany(1000):
                out.writelines(" & ".join(_latex(value) for value in row) + " \\\\\n" for row in rows)
            out.write("\\bottomrule\n\\end{tabular}\n")
    except duckdb.Error as error:
        raise store.explain(sql, error) from error
    finally:
        cursor.close()


def _latex(value: Any) -> str:
    """One cell: text escaped so that it cannot run a command, numbers short, NULL as an en dash."""
    if value is None:
        return "--"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_latex(item) for item in value)
    return latex_text(str(value))


def latex_text(text: str) -> str:
    """Text that prints as it is in LaTeX and can run no command."""
    return "".join(character for character in text.translate(LATEX) if character.isprintable())


def _write_duckdb(store: Store, tables: list[schema.Table], runs: list[str], card: dict[str, Any], path: Path) -> None:
    with _unlocked(store) as connection:
        _run(store, connection, f"ATTACH {engine.literal(str(path))} AS exported")
        for table in tables:
            _run(store, connection, engine.create(table).replace("CREATE TABLE ", "CREATE TABLE exported.", 1))
            columns = engine.names(table.column_names)
            _run(
                store,
                connection,
                f'INSERT INTO exported."{table.name}" SELECT {columns} FROM {_source(store, table, runs)}',
                runs,
            )
        text = engine.literal(json.dumps(card))
        _run(store, connection, f"CREATE TABLE exported.card AS SELECT {text} AS card")
        _run(store, connection, "DETACH exported")


_Writer = Callable[[Store, list[schema.Table], list[str], dict[str, Any], Path], None]
_WRITERS: dict[str, _Writer] = {
    "csv": _write_csv,
    "parquet": _write_parquet,
    "json": _write_json,
    "latex": _write_latex,
    "duckdb": _write_duckdb,
}
