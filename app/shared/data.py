"""The dashboard's one way to data: a read-only store per published generation and cached query results."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from app.shared.settings import load_settings
from store import queries, schema
from store.export import export_table
from store.reader import Store, open_store

Key = tuple[str, str, int]


def generation_key(home: Path) -> Key | None:
    """What identifies the current generation of ``home``, or ``None`` where nothing was published yet.

    The modification time is part of it because a data folder that was deleted and made anew counts from 1 again.
    """
    pointer = home / "CURRENT"
    try:
        return (str(home.resolve()), pointer.read_text(encoding="utf-8").strip(), pointer.stat().st_mtime_ns)
    except FileNotFoundError:
        return None


# What falls out of the cache is closed when the last session in the middle of a rerun lets go of it.
@st.cache_resource(max_entries=3, show_spinner=False)
def _store(key: Key) -> Store:
    return open_store(Path(key[0]))


_CACHE_ENTRIES = load_settings().cache_entries


@st.cache_data(max_entries=_CACHE_ENTRIES, show_spinner=False)
def _cached(key: Key, name: str, arguments: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> Any:
    function: Callable[..., Any] = getattr(queries, name)
    return function(_store(key), *arguments, **dict(options))


class Data:
    """The queries of ``store.queries`` on one generation, each answered from the cache when asked again."""

    def __init__(self, key: Key) -> None:
        self.key = key

    def __call__(self, name: str, *arguments: Any, **options: Any) -> pd.DataFrame:
        """The result of ``store.queries.<name>(store, *arguments, **options)``; arguments must be hashable."""
        return _cached(self.key, name, arguments, tuple(sorted(options.items())))

    def stored_bytes(self, run_ids: tuple[str, ...], tables: tuple[str, ...]) -> int:
        """How many bytes of shards the runs have in these tables; tables without shards count as nothing."""
        store = _store(self.key)
        kinds = {"fact", "result"}
        named = [name for name in tables if schema.TABLES[name].kind in kinds]
        return sum(path.stat().st_size for name in named for path in store.shards(name, list(run_ids)))

    def exported(self, run_ids: tuple[str, ...], table: str | None, form: str) -> bytes:
        """One table of the runs as a file's bytes, or every table (``duckdb``); see ``store.export``."""
        with tempfile.TemporaryDirectory(prefix="vmoer-export-") as folder:
            return export_table(_store(self.key), run_ids, table, form, Path(folder) / f"export.{form}").read_bytes()


def open_data(home: Path) -> Data | None:
    """The current generation of ``home``, or ``None`` where nothing was published yet."""
    key = generation_key(home)
    return None if key is None else Data(key)
