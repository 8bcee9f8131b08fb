"""Reading a YAML file that a stranger may have written: safe tags, no duplicate keys, no aliases, bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node

from pipelines.errors import SpecError


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases (a few lines of them expand to gigabytes) and without silently lost keys."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.check_event(AliasEvent):
            event = self.peek_event()
            raise SpecError(
                f"line {event.start_mark.line + 1}: aliases (*{event.anchor}) are not allowed; write it out"
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str":
                raise SpecError(f"line {line}: key {str(key)[:60]!r} must be plain text")
            if key in seen:
                raise SpecError(f"line {line}: key {key!r} is given twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_mapping(text: str | bytes) -> dict[str, Any]:
    """The one mapping a YAML text holds; anything else is refused with the line where it went wrong."""
    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader subclass that allows less
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise SpecError(f"{where}not valid YAML ({error.problem or error.context})") from None
    except yaml.YAMLError as error:
        raise SpecError(f"not valid YAML ({str(error).splitlines()[0]})") from None
    except RecursionError:
        raise SpecError("nested too deeply; a spec needs four levels") from None
    except ValueError as error:  # e.g. a date with month 13
        raise SpecError(f"not valid YAML ({error})") from None
    if not isinstance(loaded, dict):
        found = "empty" if loaded is None else f"a {type(loaded).__name__}"
        raise SpecError(f"the file is {found}; a spec is a mapping that starts with `model:`")
    return loaded


def read_file(path: Path, max_bytes: int) -> dict[str, Any]:
    """The mapping in a YAML file of at most ``max_bytes``."""
    try:
        with path.open("rb") as handle:
            content = handle.read(max_bytes + 1)
    except FileNotFoundError:
        raise SpecError(f"no spec file at {path}; give the path of a YAML file") from None
    except OSError as error:
        raise SpecError(f"cannot read the spec {path}: {error.strerror}") from None
    if len(content) > max_bytes:
        raise SpecError(f"{path.name} is larger than {max_bytes} bytes; a spec is a page of text")
    return read_mapping(content)
