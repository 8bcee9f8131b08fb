"""``python -m tests.harness.object_store``: one experiment by way of S3, on Ray, against a server on this machine.

Needs ``pip install s3fs "moto[server]"`` beside the extra ``[ray]``, best in an environment of its own: they are no
dependencies of VMoER. Prints what happens; exit code 0 only if every table equals a local run's row for row, nothing
that is there is computed again, an object that was cut off is, an unreachable or refusing store gives one sentence and
the job goes on afterwards, and no credential is found in any file or output.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store.verify import verify
from tests.harness import compare
from tests.harness.operations import SPEC, with_spec

BUCKET = "vmoer-shards"
KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"  # noqa: S105  as a real one looks, slash and all


class Check:
    """Machines below ``folder`` that share nothing but the bucket at ``endpoint``."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.endpoint = endpoint
        self.said = ""
        with_spec(SPEC)(folder)

    def run(self, home: str, *arguments: str, code: int = 0, **own: str) -> dict[str, Any]:
        """``vmoer run`` in a data folder of its own; what it prints, and the log's entries about batches."""
        environment = {
            **os.environ,
            "VMOER_HOME": str(self.folder / home),
            "VMOER_ACTORS": "2",
            "OMP_NUM_THREADS": "1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            **own,
        }
        command = [
            sys.executable,
            "-m",
            "pipelines",
            "run",
            str(self.folder / "spec.yaml"),
            "--device",
            "cpu",
            "--json",
        ]
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=900)
        self.said += done.stdout + done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout) if done.stdout else {"said": done.stderr}

    def on_ray(self, home: str, url: str = f"s3://{BUCKET}/vmoer", **own: Any) -> dict[str, Any]:
        """The same on two actors that pass their shards on at ``url``."""
        return self.run(home, "--engine", "ray", VMOER_SHARDS_URL=url, **own)

    def batches(self, home: str) -> list[bool]:
        """Of each batch in the logs of a data folder, whether it was computed."""
        files = (self.folder / home / "logs").glob("*.jsonl")
        entries = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [entry["computed"] for entry in entries if entry["event"] == "batch"]

    def same(self, home: str) -> None:
        """Every table of a data folder is that of the local run, and it is sound."""
        lost, extra = compare.homes(self.folder / "local", self.folder / home)
        print(f"{home}: rows lost {lost}, rows too many {extra}, verify: {verify(self.folder / home) or 'clean'}")
        assert (lost, extra, verify(self.folder / home)) == (0, 0, [])

    def live(self, files: Any) -> None:
        """All of it, ``files`` being the server; raises ``AssertionError`` at the first thing that is not right."""
        self.run("local")
        refused = self.on_ray("first", code=3)["said"].strip().splitlines()[-1]
        print(f"no bucket: {refused}")
        assert "VMOER_SHARDS_URL refused" in refused, refused
        files.mkdir(BUCKET)
        self.on_ray("first")
        computed = self.batches("first")
        print(f"first: {sum(computed)} of {len(computed)} batches computed, {len(files.find(BUCKET))} objects")
        assert all(computed)
        self.same("first")

        cut = next(name for name in files.find(BUCKET) if "/predictions/" in name)
        files.pipe_file(cut, files.cat_file(cut)[:-20])
        self.on_ray("second")
        computed = self.batches("second")
        print(f"second, on another machine, one object cut off: {sum(computed)} of {len(computed)} batches computed")
        assert sum(computed) == 1
        self.same("second")

        for name, url in (("in the URL", f"s3://{KEY}:{SECRET}@{BUCKET}/vmoer"), ("nowhere", "")):
            own = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"} if not url else {}
            said = self.on_ray("third", **({"url": url} if url else {}), code=3, **own)["said"].strip().splitlines()[-1]
            print(f"credentials {name}: {said}" if url else f"no server: {said}")
            assert said.startswith("vmoer: "), said
        self.on_ray("third")
        self.same("third")
        held = [path for path in self.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
        assert not held, held
        assert SECRET not in self.said
        print("no credential in any file or output")


@contextmanager
def server() -> Iterator[str]:
    """The address of an S3 server on the loopback address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        running.stop()


def main() -> int:
    """Exit code 0 when everything was as it should be."""
    import s3fs

    with tempfile.TemporaryDirectory(prefix="vmoer-s3-") as scratch, server() as endpoint:
        files = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=endpoint, use_listings_cache=False)
        Check(Path(scratch), endpoint).live(files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
