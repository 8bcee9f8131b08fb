"""Run a function on what a stranger has sent in a process of its own, with bounded memory, time and results.

A file of a kilobyte may ask its reader for gigabytes, and a reader in native code may end its process. So a parser of
such files runs as ``python -m vmoer.confined``: it gets bytes, may not grow by more than it is allowed, and answers
with JSON or not at all. Memory is bounded by the address space, which Linux enforces and macOS and Windows do not;
there the time limit is what is left.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from vmoer.errors import VmoerError

MEMORY = 300 * 2**20
SECONDS = 20
#: how many of them run at a time; others wait for their turn
AT_ONCE = 2
_TURNS = threading.BoundedSemaphore(AT_ONCE)
#: what a child needs of the environment: no secrets
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH", "HF_HUB_OFFLINE")


class ConfinedError(VmoerError):
    """What was sent cannot be read within the bounds; ``why`` is the end of a sentence that names it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"It {why}.")
        self.why = why


def confined(
    target: str,
    content: bytes,
    arguments: Mapping[str, Any] | None = None,
    *,
    refusals: tuple[type[Exception], ...] = (),
    memory: int = MEMORY,
    seconds: int = SECONDS,
) -> Any:
    """Return the JSON value of ``target`` (``module:function``) called with ``content`` and JSON ``arguments``.

    The process may take ``memory`` bytes more than it has when the function is called, and ``seconds`` of time. An
    exception of a class in ``refusals`` is raised here with its text; anything else is a :class:`ConfinedError`.
    """
    order = {"target": target, "arguments": dict(arguments or {}), "memory": memory, "seconds": seconds}
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    environment |= {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
    with _TURNS:
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "vmoer.confined"],
                input=json.dumps(order).encode() + b"\n" + content,
                capture_output=True,
                env=environment,
                timeout=seconds + 30,
            )
        except subprocess.TimeoutExpired:
            raise ConfinedError(f"takes more than {seconds} seconds to read") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        slow = -done.returncode in (signal.SIGALRM, getattr(signal, "SIGXCPU", -1))
        raise ConfinedError(
            f"takes more than {seconds} seconds to read" if slow else f"needs more than {_shown(memory)} to be read"
        ) from None
    for refusal in refusals:
        if answer.get("refused") == refusal.__name__:
            raise refusal(answer["why"])
    if "value" in answer:
        return answer["value"]
    if answer.get("refused") == "MemoryError":
        raise ConfinedError(f"needs more than {_shown(memory)} to be read")
    raise ConfinedError(f"cannot be read ({answer.get('refused', 'no answer')})")


def _shown(memory: int) -> str:
    return f"{memory // 2**20:,} MiB of memory"


def _child() -> None:
    """Read an order and its content, obey it, and write the answer."""
    order = json.loads(sys.stdin.buffer.readline())
    content = sys.stdin.buffer.read()
    module, _, name = order["target"].partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    _limit(order["memory"], order["seconds"])
    try:
        answer = {"value": function(content, **order["arguments"])}
        text = json.dumps(answer)
    except MemoryError:
        text = json.dumps({"refused": "MemoryError"})
    except Exception as error:
        text = json.dumps({"refused": type(error).__name__, "why": str(error)})
    sys.stdout.write(text)
    sys.stdout.flush()
    os._exit(0)


def _limit(memory: int, seconds: int) -> None:
    """Bound what this process may take from here on; what the system cannot bound is left out."""
    with contextlib.suppress(ImportError, OSError, ValueError, AttributeError):
        import resource  # not on Windows

        if hasattr(signal, "alarm"):
            signal.alarm(seconds)
        used = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + seconds + 1, used + seconds + 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/statm", encoding="ascii") as file:  # Linux
            taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))


if __name__ == "__main__":
    _child()
