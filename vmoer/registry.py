"""Name → class registries with a did-you-mean, open to third parties through entry points; the product by name."""

from __future__ import annotations

import difflib
import importlib.util
import tomllib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from vmoer.errors import UnknownNameError, VmoerError

#: the checkout, or the folder that the library is installed in
CHECKOUT = Path(__file__).resolve().parents[1]

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to lazily imported classes; ``kind`` is the word used in messages, ``group`` the entry-point group.

    ``check(name, class)`` raises for a class that cannot serve.
    """

    def __init__(
        self, kind: str, group: str, builtin: dict[str, str], check: Callable[[str, type[T]], None] | None = None
    ) -> None:
        self.kind = kind
        self._group = group
        self._paths = dict(builtin)
        self._check = check
        self._loaded: dict[str, type[T]] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that registers under ``name``; the same name twice is an error."""

        def decorate(cls: type[T]) -> type[T]:
            existing = self._loaded.get(name)
            place = self._paths.get(name, f"{existing.__module__}:{existing.__qualname__}" if existing else None)
            if place is not None and place.rpartition(":")[2] != cls.__qualname__:
                raise ValueError(f"{self.kind} {name!r} is already registered by {place.partition(':')[0]}.")
            self._add(name, cls)
            return cls

        return decorate

    def names(self) -> list[str]:
        """Every name that can be asked for, sorted."""
        self._scan()
        return sorted({*self._paths, *self._loaded})

    def get(self, name: str) -> type[T]:
        """The class called ``name``; an unknown name lists what exists and the nearest match."""
        if name not in self._loaded:
            self._scan()
            if name not in self._paths:
                raise UnknownNameError(unknown_name(self.kind, name, self.names()))
            module, _, attribute = self._paths[name].partition(":")
            self._add(name, getattr(importlib.import_module(module), attribute))
        return self._loaded[name]

    def _add(self, name: str, cls: type[T]) -> None:
        if self._check is not None:
            self._check(name, cls)
        self._loaded[name] = cls

    def _scan(self) -> None:
        if not self._scanned:
            self._scanned = True
            for entry in entry_points(group=self._group):
                self._paths.setdefault(entry.name, entry.value)


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """One sentence that says ``name`` is unknown, suggests the nearest and lists what there is."""
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}."


def product(module: str) -> ModuleType:
    """Import a module of the product (``app``, ``pipelines``, ``store``), which this library knows by name only.

    The product lies beside the library in a checkout and is not installed with it. Its names are common words: a
    package of somebody else that has one of them is never imported. Raises :class:`VmoerError`.
    """
    try:
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    except (OSError, ValueError, KeyError):
        project = None
    if project != "vmoer":
        raise VmoerError(
            "the command line, the dashboard and stored runs are not in the installed library; "
            "they run from a checkout or the container (README, Installing)"
        )
    package = module.partition(".")[0]
    found = importlib.util.find_spec(package)
    place = Path(found.origin).resolve() if found and found.origin else None
    if place != CHECKOUT / package / "__init__.py":
        seen = f"another package {package!r} at {place}" if place else f"no package {package!r}"
        raise VmoerError(f"Python finds {seen} instead of the one in {CHECKOUT}; put that folder first on its path")
    return importlib.import_module(module)


def open_runs(home: str | Path = "vmoer-data") -> Any:
    """Return the stored runs of a data folder, read-only: ``runs()``, ``frame(run, table)``, ``sql(query)``.

    The reader is :class:`store.runs.Runs`, a part of the product: raises :class:`VmoerError` where there is none.
    """
    return product("store.runs").open_runs(home)
