"""Shards by way of an object store (any fsspec URL), for actors on machines without a shared folder.

What is there is checked like every shard, so an upload that was cut off counts as missing. Shards lie under a hash of
what their run began with: after a change of weights or questions none of the old ones is found.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import Any, TypeVar

from pipelines.errors import PipelineError
from store.catalog import read_manifest
from store.files import replacing
from store.layout import contained, manifest_path, shard_path
from store.redact import redact

T = TypeVar("T")


class Exchange:
    """The copies at ``url`` of what is in ``home``; whatever the store refuses is one sentence (``PipelineError``)."""

    def __init__(self, url: str, home: Path) -> None:
        import fsspec

        self._home = home
        credentials = url.partition("://")[2].rpartition("@")[0]
        #: what the URL holds of them, whole and in the parts that a store may take for a name and repeat
        self._secrets = [text for text in (credentials, *re.split("[:/@]", credentials)) if len(text) > 3]
        try:
            # listings are asked for anew: others write meanwhile
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise PipelineError(self._said(f"VMOER_SHARDS_URL={url!r} cannot be used: {error}")) from None
        self._root = PurePosixPath(root)

    def send_manifest(self, run_id: str) -> None:
        """Put a run's manifest there, for the actors that will add to the run."""
        self._send(manifest_path(self._home, run_id), self._manifest(run_id))

    def fetch_manifest(self, run_id: str) -> bool:
        """Take a run's manifest from there, replacing the one here; False when there is none."""
        return self._fetch(self._manifest(run_id), manifest_path(self._home, run_id))

    def send(self, table: str, run_id: str, shard: str) -> None:
        """Put a shard there."""
        self._send(shard_path(self._home, table, run_id, shard), self._folder(run_id) / table / shard)

    def fetch(self, table: str, run_id: str, shard: str) -> bool:
        """Take a shard from there, replacing the one here; False when there is none."""
        return self._fetch(self._folder(run_id) / table / shard, shard_path(self._home, table, run_id, shard))

    def fetch_run(self, run_id: str) -> None:
        """Take every shard of a run that is there and not here."""
        for name in self._asked(lambda: self._files.find(str(self._folder(run_id)))):
            remote = PurePosixPath(name)
            path = shard_path(self._home, remote.parent.name, run_id, remote.name)
            if not path.exists():
                self._fetch(remote, path)

    def _manifest(self, run_id: str) -> PurePosixPath:
        return self._root / "runs" / manifest_path(self._home, run_id).name

    def _folder(self, run_id: str) -> PurePosixPath:
        manifest = read_manifest(self._home, run_id)
        began = [manifest.model["weights_sha256"], manifest.dtype, manifest.datasets]
        began += [manifest.card["base"], manifest.card["routing"]]
        digest = hashlib.sha256(json.dumps(began, sort_keys=True).encode()).hexdigest()[:16]
        return self._root / "shards" / run_id / digest

    def _send(self, path: Path, remote: PurePosixPath) -> None:
        def put() -> None:
            local = str(contained(self._home, path))
            try:
                self._files.put_file(local, str(remote))
            except FileNotFoundError:  # folders are made where there are such; a bucket is its owner's to make
                if not self._files.exists(remote.parts[0]):
                    raise
                self._files.makedirs(str(remote.parent), exist_ok=True)
                self._files.put_file(local, str(remote))

        self._asked(put)

    def _fetch(self, remote: PurePosixPath, path: Path) -> bool:
        if not self._asked(lambda: self._files.exists(str(remote))):
            return False
        with replacing(path) as temporary:
            self._asked(lambda: self._files.get_file(str(remote), str(temporary)))
        return True

    def _asked(self, question: Callable[[], T]) -> T:
        """The store's answer; each kind of store has errors of its own."""
        try:
            return question()
        except Exception as error:
            reason: Any = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise PipelineError(self._said(f"the store at VMOER_SHARDS_URL refused: {reason}")) from error

    def _said(self, sentence: str) -> str:
        """A store's words on one line of bearable length, without credentials."""
        sentence = redact(sentence)
        for secret in self._secrets:
            sentence = sentence.replace(secret, "***")
        return shorten(sentence, 300, placeholder=" …")
