"""Functions that take too much, for a process that bounds them; they import nothing, so that it starts at once."""

from __future__ import annotations

import os
import time


def hog(content: bytes) -> int:
    return len(bytearray(400 * 2**20))


def sleep(content: bytes) -> None:
    time.sleep(60)


def spin(content: bytes) -> None:
    while True:
        pass


def crash(content: bytes) -> None:
    os.abort()


def refuse(content: bytes, kind: str) -> None:
    raise {"ValueError": ValueError, "KeyError": KeyError}[kind](content.decode())


def environment(content: bytes) -> list[str]:
    return sorted(os.environ)
